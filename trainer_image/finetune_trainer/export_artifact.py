"""Writes the files of an export into its folder: weights in shards, then what accompanies them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from finetune_api.model_export import ExportFormat
from finetune_api.model_settings import Dtype
from finetune_trainer.artifact_files import (
    adapter_config,
    generation_config,
    licence_files,
    model_config,
    tokenizer_files,
)
from finetune_trainer.byte_size import byte_size
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.merge import SafetensorsFolder, tied_names
from finetune_trainer.merged_model import merged_weights, tied_weights, write_weights
from finetune_trainer.model_record import MODEL, recorded_model
from finetune_trainer.start_weights import continues
from finetune_trainer.weight_shards import shard_stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from finetune_api.experiment_start import Start
    from finetune_api.run_config import ExportJobConfig
    from finetune_trainer.export_sources import ExportSources
    from finetune_trainer.store import FileEntry, Store

TORCH_DTYPES = {
    Dtype.BFLOAT16.value: torch.bfloat16,
    Dtype.FLOAT16.value: torch.float16,
    Dtype.FLOAT32.value: torch.float32,
}


@dataclass(frozen=True)
class Prompting:
    """How the exported model is spoken to: its template, if it is not the base's, and its ends."""

    chat_template: str | None
    end_tokens: list[int]


def exports_adapter(config: ExportJobConfig) -> bool:
    """Tell whether the adapter itself is exported; full training has none."""
    wanted = config.spec.format is ExportFormat.ADAPTER
    if wanted and config.checkpoint_kind != "Adapter":
        raise ConfigurationError(
            f"spec.format: Adapter, but experiment {config.experiment} trained the whole model; "
            "set format Merged",
            reason="InvalidSpec",
        )
    if wanted and config.start is not None and _merged_before(config.start):
        raise ConfigurationError(
            f"spec.format: Adapter, but the adapter of {config.experiment} belongs to a base into "
            "which other experiments were merged, and fits no published one; set format Merged",
            reason="InvalidSpec",
        )
    return wanted


def _merged_before(start: Start) -> bool:
    return any(not continues(one) for one in start.ancestors)


def export_dtype(config: ExportJobConfig) -> str:
    """Return the type of the written weights; Auto is the compute type of the training."""
    if exports_adapter(config):
        return Dtype.FLOAT32.value
    chosen = config.spec.merge.dtype if config.spec.merge is not None else Dtype.AUTO
    return config.plan.compute_dtype if chosen is Dtype.AUTO else chosen.value


def torch_dtype(name: str) -> torch.dtype:
    """Return torch's type for a name of the API."""
    return TORCH_DTYPES[name]


def write_artifact(
    config: ExportJobConfig,
    sources: ExportSources,
    prompting: Prompting,
    store: Store,
    written: Callable[[float], None],
) -> list[FileEntry]:
    """Write all files but card and manifest; `written` hears the share 0…1 of the weights."""
    files = (
        _adapter(sources, store)
        if exports_adapter(config)
        else _model(config, sources, store, written)
    )
    for name, content in _companions(config, sources, prompting):
        files.append(store.write(name, content))
    return files


def _adapter(sources: ExportSources, store: Store) -> list[FileEntry]:
    trained = SafetensorsFolder(sources.checkpoint)
    twice = tied_names(trained, tied_weights(sources.base))
    plans = [trained.plan(name) for name in trained]
    plans += [replace(trained.plan(source), name=name) for name, source in twice.items()]
    stream = shard_stream(plans, lambda name: trained[twice.get(name, name)])
    return [store.write("adapter_model.safetensors", stream)]


def _model(
    config: ExportJobConfig,
    sources: ExportSources,
    store: Store,
    written: Callable[[float], None],
) -> list[FileEntry]:
    merged = merged_weights(sources.base, sources.checkpoint, torch_dtype(export_dtype(config)))
    return write_weights(store, merged, byte_size(config.spec.max_shard_size), written)


def _companions(
    config: ExportJobConfig, sources: ExportSources, prompting: Prompting
) -> Iterator[tuple[str, bytes]]:
    if exports_adapter(config):
        trained = (sources.checkpoint / "adapter_config.json").read_bytes()
        name = config.model.name
        yield "adapter_config.json", adapter_config(trained, name, config.model.commit)
        if (sources.checkpoint / MODEL).exists():
            yield MODEL, (sources.checkpoint / MODEL).read_bytes()
    else:
        dtype = str(torch_dtype(export_dtype(config))).removeprefix("torch.")
        rows = recorded_model(sources.checkpoint).vocabulary
        yield "config.json", model_config(sources.base, dtype, rows)
    yield "generation_config.json", generation_config(sources.base, prompting.end_tokens)
    yield from tokenizer_files(sources.spoken, prompting.chat_template)
    yield from licence_files(sources.base)
