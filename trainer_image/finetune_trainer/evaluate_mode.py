"""What mode Evaluate changes in preparation: one split counts, and what only trains is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from finetune_api.text_settings import Split
from finetune_api.training_settings import Mode
from finetune_trainer.errors import ConfigurationError, DataError
from finetune_trainer.split import TRAIN

if TYPE_CHECKING:
    from finetune_api.finetune_experiment import ExperimentSpec
    from finetune_trainer.snapshot import Snapshot

TRAINING_ONLY = {
    "training": None,
    "adapter": None,
    "checkpoint": None,
    "tracking": None,
    "evaluation": (
        "objective",
        "every_epochs",
        "every_steps",
        "at_start",
        "early_stopping_patience",
        "early_stopping_threshold",
    ),
    "dataset": ("include_validation",),
}
"""Blocks, or fields of them, that act on a training alone."""


def main_split(spec: ExperimentSpec) -> str:
    """Return the split a run is about: what it trains on, or what mode Evaluate evaluates."""
    if spec.mode is Mode.TRAIN:
        return TRAIN
    return (spec.dataset.evaluate_split or Split.VALIDATION).value.lower()


def of_mode(spec: ExperimentSpec, snapshot: Snapshot) -> Snapshot:
    """Return the splits that this mode reads; mode Evaluate leaves all but its own out.

    Raises ConfigurationError (DeadSetting) for settings of a training that will not take place,
    and DataError when there is nothing to evaluate.
    """
    if spec.mode is Mode.TRAIN:
        return snapshot
    dead = list(_set_in_vain(spec))
    if dead:
        raise ConfigurationError(
            f"{', '.join(dead)}: set, but spec.mode is Evaluate and nothing is trained; remove "
            "them",
            reason="DeadSetting",
        )
    split = main_split(spec)
    if not snapshot.splits.get(split):
        raise DataError(
            f"spec.dataset.evaluateSplit: the {split} split of {spec.dataset.name} is empty; "
            "choose another split, or give the Dataset one",
            reason="InvalidData",
        )
    return replace(snapshot, splits={split: snapshot.splits[split]})


def _set_in_vain(spec: ExperimentSpec) -> Iterator[str]:
    """Yield the paths of fields that differ from their defaults without an effect."""
    if spec.augmentation is not None:
        yield "spec.augmentation"
    for block, chosen in TRAINING_ONLY.items():
        values: Any = getattr(spec, block)
        fields = type(values).model_fields
        for name in chosen or fields:
            default = fields[name].get_default(call_default_factory=True)
            if getattr(values, name) != default:
                yield f"spec.{block}.{fields[name].alias or name}"
