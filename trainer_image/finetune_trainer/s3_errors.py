"""What boto3 raises, told in the trainer's own error classes."""

from __future__ import annotations

from botocore.exceptions import BotoCoreError, ClientError

from finetune_trainer.errors import AccessError, ExternalServiceError, ResourcesExhaustedError

WRONG_KEYS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"} | {
    "XAdminUserNotFound"  # versitygw, with 404
}
"""Codes that mean a wrong key whatever the status: some gateways answer 400 or 404 with them."""


def translated(error: ClientError | BotoCoreError, where: str) -> Exception:
    """Return our error for one of boto3's; `where` is the URI it was met at."""
    if not isinstance(error, ClientError):
        return ExternalServiceError(
            f"{where}: no answer from the object store ({type(error).__name__}); check that it "
            "runs and can be reached",
            reason="ServiceUnavailable",
        )
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = str(error.response.get("Error", {}).get("Code", ""))
    if code == "NoSuchBucket":
        return AccessError(f"{where}: no such bucket; correct its name", reason="SourceNotFound")
    if code in WRONG_KEYS:
        return _denied(status, code, where)
    if status == 404 or code in {"NoSuchKey", "NotFound"}:
        return FileNotFoundError(where)
    if status in {409, 412} or code == "PreconditionFailed":
        return FileExistsError(where)
    return _refused(status, code, where)


def _refused(status: int, code: str, where: str) -> Exception:
    if status == 507 or "Quota" in code or "Storage" in code:
        return ResourcesExhaustedError(
            f"{where}: the object store is full ({code}); free space or raise its quota",
            reason="NoSpace",
        )
    if status in {401, 403}:
        return _denied(status, code, where)
    return ExternalServiceError(
        f"{where}: the object store answers {status} {code}; repair it or try again later",
        reason="ServiceUnavailable",
    )


def _denied(status: int, code: str, where: str) -> AccessError:
    return AccessError(
        f"{where}: the object store answers {status} {code}; grant the permission on this "
        "prefix, or correct the Secret",
        reason="AccessDenied",
    )
