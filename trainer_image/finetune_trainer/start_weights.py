"""The weights a run starts from: a base, then the checkpoints of other experiments, eldest first.

Every checkpoint but a continued adapter is merged into a model folder on scratch, in 32 bit and
before any quantisation; that folder is then loaded like any other.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune_api.model_settings import AdapterHandover, AdapterType
from finetune_api.presets import preset_of
from finetune_api.training_settings import Mode
from finetune_trainer.artifact_files import licence_files, model_config, tokenizer_files
from finetune_trainer.base_model import local_model_folder
from finetune_trainer.errors import AccessError, ConfigurationError
from finetune_trainer.store import MANIFEST, download_verified, store_at
from finetune_trainer.stored import pinned

if TYPE_CHECKING:
    from pathlib import Path

    from finetune_api.experiment_start import Ancestor, Start
    from finetune_api.finetune_experiment import ExperimentSpec

OPTIMIZER, GENERATION = "optimizer-", "generation_config.json"
SHARD_BYTES = 5 << 30


@dataclass(frozen=True)
class Starting:
    """Local folders: a model, and the adapter that is trained further on it."""

    model: Path
    adapter: Path | None = None


def continues(ancestor: Ancestor) -> bool:
    """Tell whether a checkpoint is an adapter that is trained further instead of merged."""
    return ancestor.kind == "Adapter" and ancestor.handover is AdapterHandover.CONTINUE


def starting_model(
    start: Start, spec: ExperimentSpec, commit: str | None, scratch: Path
) -> Starting:
    """Fetch the base and put the ancestors onto it.

    Raises AccessError (CheckpointNotFound), DataError (DigestMismatch) and ConfigurationError
    (WeightsMismatch) where a checkpoint does not fit the model below it.
    """
    folder = local_model_folder(start.base, spec.hub, scratch, commit)
    for number, ancestor in enumerate(start.ancestors):
        checkpoint = _fetched(ancestor, scratch / f"ancestor-{number}")
        # What is only evaluated needs no adapter of its own.
        if continues(ancestor) and spec.mode is Mode.TRAIN:
            return Starting(folder, checkpoint)
        below, folder = folder, scratch / f"merged-{number}"
        _merge(below, checkpoint, folder)
        shutil.rmtree(checkpoint)
        if number:
            shutil.rmtree(below)
    return Starting(folder)


def refuse_unfit_start(start: Start, spec: ExperimentSpec) -> None:
    """Raise ConfigurationError where the last ancestor cannot be handed over as asked.

    AdapterMismatch unless type, rank, alpha and scale of a continued adapter agree; DeadSetting for
    a merge where there is no adapter.
    """
    if not start.ancestors or spec.mode is not Mode.TRAIN:
        return
    last = start.ancestors[-1]
    if last.kind == "Model" and spec.model.adapter_handover is AdapterHandover.MERGE:
        raise ConfigurationError(
            f"spec.model.adapterHandover: Merge, but {last.experiment} trained the whole model; "
            "remove it",
            reason="DeadSetting",
        )
    if not continues(last):
        return
    store = store_at(last.location, last.uri)
    pinned(store, last.digest)
    refuse_other_adapter(last.experiment, json.loads(store.read("adapter_config.json")), spec)


def refuse_other_adapter(name: str, parent: Mapping[str, Any], spec: ExperimentSpec) -> None:
    """Raise AdapterMismatch unless the adapter_config.json of a parent fits a spec's adapter."""
    differing = _differing(parent, spec)
    if differing:
        raise ConfigurationError(
            f"spec.adapter: the adapter of {name} differs: {'; '.join(differing)}; give equal "
            "settings, or set model.adapterHandover Merge",
            reason="AdapterMismatch",
        )


def _differing(parent: Mapping[str, Any], spec: ExperimentSpec) -> list[str]:
    adapter, rank = spec.adapter, preset_of(spec).rank
    method = AdapterType.DORA if parent.get("use_dora") else AdapterType.LORA
    pairs = {
        "type": (method.value, adapter.type.value),
        "rank": (parent["r"], rank),
        "alpha": (float(parent["lora_alpha"]), adapter.alpha or 2.0 * rank),
        "rslora": (bool(parent.get("use_rslora")), adapter.rslora),
    }
    return [f"{name} is {new}, was {old}" for name, (old, new) in pairs.items() if old != new]


def _fetched(ancestor: Ancestor, folder: Path) -> Path:
    store = store_at(ancestor.location, ancestor.uri)
    if not store.exists(MANIFEST):
        raise AccessError(
            f"spec.model.fromExperiment: the checkpoint {store.uri} of {ancestor.experiment} is "
            "gone; choose another",
            reason="CheckpointNotFound",
        )
    manifest = pinned(store, ancestor.digest)
    wanted = [file.name for file in manifest.files if not file.name.startswith(OPTIMIZER)]
    download_verified(store, manifest, folder, wanted)
    return folder


def _merge(base: Path, checkpoint: Path, folder: Path) -> None:
    """Write a model folder: base and checkpoint together."""
    from finetune_trainer.merged_model import merged_weights, write_weights  # noqa: PLC0415 - torch
    from finetune_trainer.model_record import recorded_model  # noqa: PLC0415
    from finetune_trainer.path_store import PathStore  # noqa: PLC0415

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    store = PathStore(folder, folder.as_uri())
    write_weights(store, merged_weights(base, checkpoint, None), SHARD_BYTES, lambda _: None)
    rows = recorded_model(checkpoint).vocabulary
    files = {"config.json": model_config(base, None, rows)}
    files |= dict(tokenizer_files(base, None)) | dict(licence_files(base))
    if (base / GENERATION).exists():
        files[GENERATION] = (base / GENERATION).read_bytes()
    for name, content in files.items():
        (folder / name).write_bytes(content)
