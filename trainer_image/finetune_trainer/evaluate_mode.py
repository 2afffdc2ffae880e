"""What mode Evaluate changes in preparation: one split counts, and what only trains is refused.

Settings of answers that nobody asks for are refused in both modes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from finetune_api.text_settings import Split
from finetune_api.training_settings import Mode
from finetune_trainer.errors import ConfigurationError, DataError
from finetune_trainer.split import TRAIN

if TYPE_CHECKING:
    from finetune_api.finetune_experiment import ExperimentSpec
    from finetune_trainer.snapshot import Snapshot

Fields = Mapping[str, Sequence[str] | None]

TRAINING_ONLY: Fields = {
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

    Raises ConfigurationError (DeadSetting) for settings of a training or of answers that will not
    take place, and DataError when there is nothing to evaluate.
    """
    if spec.evaluation.generate_samples == 0:
        unasked = {"generation": None, "evaluation": ("per_device_batch_size",)}
        _refuse(_changed(spec, unasked), "spec.evaluation.generateSamples is 0")
    if spec.mode is Mode.TRAIN:
        return snapshot
    augmented = [] if spec.augmentation is None else ["spec.augmentation"]
    dead = [*augmented, *_changed(spec, TRAINING_ONLY)]
    _refuse(dead, "spec.mode is Evaluate and nothing is trained")
    split = main_split(spec)
    if not snapshot.splits.get(split):
        raise DataError(
            f"spec.dataset.evaluateSplit: the {split} split of {spec.dataset.name} is empty; "
            "choose another split, or give the Dataset one",
            reason="InvalidData",
        )
    return replace(snapshot, splits={split: snapshot.splits[split]})


def _refuse(dead: Iterable[str], why: str) -> None:
    names = ", ".join(dead)
    if names:
        raise ConfigurationError(f"{names}: set, but {why}; remove it", reason="DeadSetting")


def _changed(spec: ExperimentSpec, chosen: Fields) -> Iterator[str]:
    """Yield the paths of fields that differ from their defaults."""
    for block, names in chosen.items():
        values: Any = getattr(spec, block)
        fields = type(values).model_fields if values is not None else {}
        for name in names or fields:
            default = fields[name].get_default(call_default_factory=True)
            if getattr(values, name) != default:
                yield f"spec.{block}.{fields[name].alias or name}"
