"""How old files below a location are, and the uploads into it that nobody has ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from finetune_api.storage import S3, Location
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.mounts import claim_folder
from finetune_trainer.s3_errors import translated
from finetune_trainer.s3_store import s3_client


@dataclass(frozen=True)
class Upload:
    """A multipart upload that is open."""

    name: str
    identity: str
    seconds: float


def ages(location: Location, prefix: str) -> dict[str, float]:
    """Return the seconds since each file below a folder of the location was written."""
    if location.s3 is not None:
        return {
            name: (answered - item["LastModified"]).total_seconds()
            for name, item, answered in _items(location.s3, prefix, "list_objects_v2", "Contents")
        }
    if location.volume_claim is None:
        return {}
    root = claim_folder(location.volume_claim.claim_name) / (location.volume_claim.path or "")
    if not root.is_dir():
        raise ConfigurationError(f"{root}: no such folder; mount the claim there")
    files = (path for path in (root / prefix).rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): _seconds(path) for path in files}


def open_uploads(location: Location, prefix: str) -> list[Upload]:
    """Return the open uploads below a folder of the location; folders know none."""
    if location.s3 is None:
        return []
    found = _items(location.s3, prefix, "list_multipart_uploads", "Uploads")
    return [
        Upload(name, item["UploadId"], (answered - item["Initiated"]).total_seconds())
        for name, item, answered in found
    ]


def abort(location: Location, upload: Upload) -> None:
    """End an open upload; what was sent of it is dropped by the server."""
    if location.s3 is not None:
        key = _start(location.s3) + upload.name
        s3_client(location.s3).abort_multipart_upload(
            Bucket=location.s3.bucket, Key=key, UploadId=upload.identity
        )


def _items(
    place: S3, prefix: str, operation: str, part: str
) -> Iterator[tuple[str, dict[str, Any], datetime]]:
    """Yield name, item and the server's own time, so that no two clocks are compared."""
    start = _start(place)
    pages = s3_client(place).get_paginator(operation)
    try:
        for page in pages.paginate(Bucket=place.bucket, Prefix=f"{start}{prefix}/"):
            answered = parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"])
            for item in page.get(part) or ():
                yield item["Key"][len(start) :], item, answered
    except (ClientError, BotoCoreError) as error:
        raise translated(error, f"s3://{place.bucket}/{start}{prefix}") from error


def _start(place: S3) -> str:
    prefix = (place.prefix or "").strip("/")
    return f"{prefix}/" if prefix else ""


def _seconds(path: Path) -> float:
    return time.time() - path.stat().st_mtime
