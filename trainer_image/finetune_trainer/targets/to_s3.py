"""A bucket, or a part of it, as the target of an export."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune_api.storage import Location
from finetune_trainer.store import Store, open_store

if TYPE_CHECKING:
    from finetune_api.storage import S3


def s3_target(bucket: S3) -> Store:
    """Return the store below the target's prefix: the folder that loaders are pointed at."""
    return open_store(Location(s3=bucket))
