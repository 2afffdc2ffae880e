"""A store below a prefix of a bucket, and the S3 client that the S3 data source shares."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from finetune_trainer.errors import AccessError
from finetune_trainer.mounts import required_secret_value, secret_value
from finetune_trainer.path_store import write_local
from finetune_trainer.s3_errors import translated
from finetune_trainer.store_protocol import FileEntry, Hashed, checked_name

if TYPE_CHECKING:
    from finetune_api.storage import S3

PART_BYTES = 32 << 20
RETRIES = 10
"""Times boto3 asks again, with growing delays: a gateway that restarts is waited for."""
TRIES = 3
"""Times a download starts again after the stream broke; requests are retried by boto3 itself."""

Result = TypeVar("Result")


def s3_client(location: S3) -> Any:
    """Return a boto3 client for the server and identity that a location names.

    Raises AccessError (AddressNotAllowed) for a server on a link-local address: there live the
    metadata services of clouds, which hand out credentials.
    """
    if location.endpoint is not None:
        _refuse_link_local(urlsplit(location.endpoint).hostname or "")
    config = Config(
        signature_version=UNSIGNED if location.anonymous else "s3v4",
        s3={"addressing_style": "path" if location.path_style else "auto"},
        retries={"mode": "standard", "total_max_attempts": RETRIES},
        connect_timeout=10,
        read_timeout=60,
        # Servers other than AWS do not all know checksums in trailers; ours go in headers.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    create: Any = boto3.client
    return create(
        "s3",
        endpoint_url=location.endpoint,
        region_name=location.region or "us-east-1",
        config=config,
        **_credentials(location),
    )


def s3_store(location: S3) -> S3Store:
    """Return the store of a location."""
    return S3Store(s3_client(location), location.bucket, (location.prefix or "").strip("/"))


class S3Store:
    """Objects below one prefix; every write is conditional on the key being free."""

    def __init__(self, client: Any, bucket: str, prefix: str) -> None:
        self._client, self._bucket, self._prefix = client, bucket, prefix

    @property
    def uri(self) -> str:
        """Where the store lies."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def child(self, path: str) -> S3Store:
        """Return the store of a folder below this one."""
        return S3Store(self._client, self._bucket, self._key(path))

    def write(self, name: str, data: bytes | Iterable[bytes]) -> FileEntry:
        """Write one new object; raise FileExistsError when the key is taken."""
        hashed = Hashed(data)
        parts = _parts(hashed)
        first, second = next(parts, b""), next(parts, None)
        if second is None:
            self._put(name, first)
        else:
            self._put_parts(name, _chain(first, second, parts))
        return hashed.entry(name)

    def read(self, name: str) -> bytes:
        """Return a whole object; raise FileNotFoundError when there is none."""

        def whole() -> bytes:
            with self.open(name) as stream:
                return stream.read()

        return self._again_when_broken(name, whole)

    def open(self, name: str) -> BinaryIO:
        """Return a stream of an object; raise FileNotFoundError when there is none."""
        answer = self._call("get_object", name)
        body: BinaryIO = answer["Body"]
        return body

    def list(self, prefix: str = "") -> list[str]:
        """Return the sorted names of all objects that begin with `prefix`."""
        start = f"{self._prefix}/{prefix}" if self._prefix else prefix
        cut = len(self._prefix) + 1 if self._prefix else 0
        names: list[str] = []
        token: dict[str, str] = {}
        while True:
            answer = self._call("list_objects_v2", None, Prefix=start, **token)
            names += [item["Key"][cut:] for item in answer.get("Contents", ())]
            if not answer.get("IsTruncated"):
                return sorted(name for name in names if name and not name.endswith("/"))
            token = {"ContinuationToken": answer["NextContinuationToken"]}

    def exists(self, name: str) -> bool:
        """Tell whether an object of this name can be read."""
        try:
            self._call("head_object", name)
        except FileNotFoundError:
            return False
        return True

    def delete(self, name: str) -> None:
        """Remove an object; a missing one is no error."""
        with suppress(FileNotFoundError):
            self._call("delete_object", name)

    def download(self, name: str, target: Path) -> None:
        """Copy an object to local disk, making the folders it needs."""

        def copied() -> None:
            with self.open(name) as stream:
                write_local(target, stream)

        self._again_when_broken(name, copied)

    def _put(self, name: str, content: bytes) -> None:
        writer = uuid.uuid4().hex
        self._create(
            name,
            writer,
            lambda: self._call(
                "put_object",
                name,
                Body=content,
                ChecksumSHA256=_checksum(content),
                Metadata={"writer": writer},
                IfNoneMatch="*",
            ),
        )

    def _put_parts(self, name: str, parts: Iterable[bytes]) -> None:
        writer = uuid.uuid4().hex
        started = self._call(
            "create_multipart_upload", name, ChecksumAlgorithm="SHA256", Metadata={"writer": writer}
        )
        upload = {"UploadId": started["UploadId"]}
        try:
            sent = {"Parts": [self._part(name, upload, n, part) for n, part in enumerate(parts, 1)]}
            self._create(
                name,
                writer,
                lambda: self._call(
                    "complete_multipart_upload",
                    name,
                    MultipartUpload=sent,
                    IfNoneMatch="*",
                    **upload,
                ),
            )
        except BaseException:
            with suppress(Exception):
                self._call("abort_multipart_upload", name, **upload)
            raise

    def _part(
        self, name: str, upload: dict[str, str], number: int, content: bytes
    ) -> dict[str, Any]:
        checksum = _checksum(content)
        answer = self._call(
            "upload_part", name, PartNumber=number, Body=content, ChecksumSHA256=checksum, **upload
        )
        return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": checksum}

    def _create(self, name: str, writer: str, put: Callable[[], Any]) -> None:
        """Put on the condition that the key is free; a put of ours whose answer got lost counts."""
        try:
            put()
        except FileExistsError:
            found = self._call("head_object", name)
            if found.get("Metadata", {}).get("writer") != writer:
                raise

    def _call(self, operation: str, name: str | None, **arguments: Any) -> Any:
        if name is not None:
            arguments["Key"] = self._key(name)
        try:
            return getattr(self._client, operation)(Bucket=self._bucket, **arguments)
        except (ClientError, BotoCoreError) as error:
            raise translated(error, f"{self.uri}/{name or ''}") from error

    def _again_when_broken(self, name: str, action: Callable[[], Result]) -> Result:
        for _ in range(TRIES - 1):
            with suppress(BotoCoreError):
                return action()
        try:
            return action()
        except BotoCoreError as error:
            raise translated(error, f"{self.uri}/{name}") from error

    def _key(self, name: str) -> str:
        checked_name(name)
        return f"{self._prefix}/{name}" if self._prefix else name


def _refuse_link_local(host: str) -> None:
    with suppress(OSError, UnicodeError):
        for found in socket.getaddrinfo(host, None):
            if ipaddress.ip_address(str(found[4][0]).partition("%")[0]).is_link_local:
                raise AccessError(
                    f"endpoint {host}: {found[4][0]} is a link-local address; use the address of "
                    "an object store",
                    reason="AddressNotAllowed",
                )


def _credentials(location: S3) -> dict[str, str | None]:
    if location.anonymous or location.secret_ref is None:
        return {}
    name = location.secret_ref.name
    return {
        "aws_access_key_id": required_secret_value(name, "AWS_ACCESS_KEY_ID"),
        "aws_secret_access_key": required_secret_value(name, "AWS_SECRET_ACCESS_KEY"),
        "aws_session_token": secret_value(name, "AWS_SESSION_TOKEN"),
    }


def _parts(chunks: Iterable[bytes]) -> Iterator[bytes]:
    buffer = bytearray()
    for chunk in chunks:
        buffer += chunk
        while len(buffer) >= PART_BYTES:
            yield bytes(buffer[:PART_BYTES])
            del buffer[:PART_BYTES]
    if buffer:
        yield bytes(buffer)


def _chain(first: bytes, second: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield second
    yield from rest


def _checksum(content: bytes) -> str:
    return base64.b64encode(hashlib.sha256(content).digest()).decode()
