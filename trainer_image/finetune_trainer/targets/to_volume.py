"""A folder on a PersistentVolumeClaim as the target of an export."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune_api.storage import Location
from finetune_trainer.store import Store, open_store

if TYPE_CHECKING:
    from finetune_api.storage import VolumeClaim


def volume_target(claim: VolumeClaim) -> Store:
    """Return the store of the claim's folder: the one that loaders are pointed at."""
    return open_store(Location(volume_claim=claim))
