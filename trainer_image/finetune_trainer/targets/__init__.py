"""Where an export can go: one module per kind of target, each a folder of write-once files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune_trainer.targets.to_s3 import s3_target
from finetune_trainer.targets.to_volume import volume_target

if TYPE_CHECKING:
    from finetune_api.model_export import Target
    from finetune_trainer.store import Store


def target_store(target: Target) -> Store:
    """Return the folder of a target; the API's rules guarantee that one connector is set."""
    if target.s3 is not None:
        return s3_target(target.s3)
    if target.volume_claim is not None:
        return volume_target(target.volume_claim)
    raise ValueError(f"spec.targets {target.name}: no connector; set s3 or volumeClaim")
