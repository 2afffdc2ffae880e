"""Objects of a bucket: one key, or all data files below a prefix."""

from __future__ import annotations

from finetune_api.dataset_sources import Source
from finetune_trainer.s3_store import S3Store, s3_client
from finetune_trainer.sources.fetched_files import (
    Desk,
    Fetched,
    FetchedFile,
    chosen,
    nothing_found,
)


def fetch_s3(source: Source, desk: Desk) -> Fetched:
    """Return a copy of the object, or of the data files below the prefix."""
    location = source.s3
    assert location is not None  # noqa: S101 - the table of sources chose by this member
    bucket = S3Store(s3_client(location), location.bucket, "")
    prefix = (location.prefix or "").strip("/")
    names = bucket.list(prefix)
    what = f'bucket "{location.bucket}", key "{prefix}"'
    if prefix in names:
        return Fetched(files=(_kept(bucket, prefix, prefix.rpartition("/")[2], desk),))
    below = f"{prefix}/" if prefix else ""
    inside = [name.removeprefix(below) for name in names if name.startswith(below)]
    keys = chosen(inside, source)
    if not keys:
        raise nothing_found(what, prefix, _neighbours(bucket, prefix))
    return Fetched(files=tuple(_kept(bucket, below + key, key, desk) for key in keys))


def _kept(bucket: S3Store, key: str, name: str, desk: Desk) -> FetchedFile:
    with bucket.open(key) as stream:
        return desk.keep(name, stream)


def _neighbours(bucket: S3Store, prefix: str) -> list[str]:
    folder = prefix.rpartition("/")[0]
    return bucket.list(f"{folder}/" if folder else "")[:1000]
