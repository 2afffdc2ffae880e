"""The records of a run: snapshots read, sampled, joined to conversations, put into splits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.presets import preset_of
from finetune_api.text_settings import ChainSamples, Split
from finetune_trainer.chains import conversations
from finetune_trainer.errors import ConfigurationError, DataError
from finetune_trainer.snapshot import Rows, Snapshot, read_snapshot
from finetune_trainer.split import TEST, TRAIN, VALIDATION, sampled_groups
from finetune_trainer.store import store_at

if TYPE_CHECKING:
    from finetune_api.finetune_experiment import ExperimentSpec
    from finetune_api.run_config import PreparationConfig, SnapshotRef


def run_records(config: PreparationConfig, folder: Path) -> Snapshot:
    """Return the records that a run trains on, validates and tests with.

    Raises DataError for another snapshot than the pinned one, or of another record type, and
    ConfigurationError (DeadSetting) for settings that cannot act on this data.
    """
    spec = config.spec
    _check_pin(config)
    snapshot = _read(config.dataset, folder / "dataset")
    splits = dict(snapshot.splits)
    for split, wanted in ((VALIDATION, config.validation), (TEST, config.test)):
        if wanted is not None:
            other = _read(wanted, folder / split)
            _check_type(snapshot, other, wanted)
            rows = _together(*other.splits.values())
            splits[split] = replace(rows, sources=[f"{wanted.name}/{one}" for one in rows.sources])
    splits = {split: _sampled(rows, split, config) for split, rows in splits.items()}
    _check_acting(spec, splits)
    mode = spec.prompt.chain_samples
    splits = {split: conversations(rows, mode) for split, rows in splits.items()}
    if spec.dataset.include_validation:
        if not splits.get(VALIDATION):
            raise ConfigurationError(
                "spec.dataset.includeValidation: there is no validation split to train on; remove "
                "it, or give the Dataset one",
                reason="DeadSetting",
            )
        splits[TRAIN] = _together(splits[TRAIN], splits[VALIDATION])
    return replace(snapshot, splits=splits)


def _read(wanted: SnapshotRef, folder: Path) -> Snapshot:
    return read_snapshot(store_at(wanted.location, wanted.uri), folder, wanted.digest)


def _check_pin(config: PreparationConfig) -> None:
    pinned, wanted = config.spec.dataset.digest, config.dataset
    if pinned is not None and pinned != wanted.digest:
        raise DataError(
            f"spec.dataset.digest: Dataset {wanted.name} has {wanted.digest}, pinned is {pinned}; "
            "restore the data or change the pin",
            reason="DigestMismatch",
        )


def _check_type(snapshot: Snapshot, other: Snapshot, wanted: SnapshotRef) -> None:
    if other.record_type != snapshot.record_type:
        raise DataError(
            f"spec.dataset: Dataset {wanted.name} holds records of type {other.record_type}, the "
            f"run trains on {snapshot.record_type}; use a Dataset of this type",
            reason="IncompatibleDataset",
        )


def _sampled(rows: Rows, split: str, config: PreparationConfig) -> Rows:
    """Return the seeded sample of a split; what belongs together stays together."""
    wanted, share = config.spec.dataset, preset_of(config.spec).sample_fraction
    if split.title() not in [one.value for one in wanted.sample_splits] or not rows:
        return rows
    if wanted.sample_rows is None and share >= 1.0:
        return rows
    chosen = sampled_groups(rows.groups, config.seed, share=share, rows=wanted.sample_rows)
    places = [at for at, group in enumerate(rows.groups) if group in chosen]
    return _columns(lambda name: [values[at] for at in places if (values := getattr(rows, name))])


def _together(*parts: Rows) -> Rows:
    """Return several splits as one; rows of a split that is not linked are roots in one that is."""
    linked = any(part.parents for part in parts)
    both = [
        replace(part, parents=part.parents or ([None] * len(part) if linked else []))
        for part in parts
    ]
    return _columns(lambda name: [value for part in both for value in getattr(part, name)])


def _columns(column: Callable[[str], list[Any]]) -> Rows:
    return Rows(**{one.name: column(one.name) for one in fields(Rows)})


def _check_acting(spec: ExperimentSpec, splits: dict[str, Rows]) -> None:
    dataset = spec.dataset
    sampled = dataset.sample_rows is not None or preset_of(spec).sample_fraction < 1.0
    if not sampled and set(dataset.sample_splits) != {Split.TRAIN, Split.VALIDATION}:
        raise ConfigurationError(
            "spec.dataset.sampleSplits: nothing is sampled; remove it, or set sampleFraction or "
            "sampleRows",
            reason="DeadSetting",
        )
    mode = spec.prompt.chain_samples
    if mode != ChainSamples.LEAF and not any(rows.parents for rows in splits.values()):
        raise ConfigurationError(
            f"spec.prompt.chainSamples: {mode.value}, but the rows of Dataset {spec.dataset.name} "
            "are not linked; remove it, or map columns.id and columns.parentId of the Dataset",
            reason="DeadSetting",
        )
