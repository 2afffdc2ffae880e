"""Writes the files of an export into its folder: weights in shards, then what accompanies them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from finetune_api.model_export import ExportFormat
from finetune_api.training_settings import Dtype
from finetune_trainer.artifact_files import (
    adapter_config,
    generation_config,
    licence_files,
    model_config,
    tokenizer_files,
)
from finetune_trainer.byte_size import byte_size
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.merge import MergedWeights, SafetensorsFolder, trained_weights
from finetune_trainer.weight_shards import TensorPlan, shard_stream, shards, weight_index

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from finetune_api.run_config import ExportJobConfig
    from finetune_trainer.export_sources import ExportSources
    from finetune_trainer.store import FileEntry, Store

TORCH_DTYPES = {Dtype.BFLOAT16.value: torch.bfloat16, Dtype.FLOAT32.value: torch.float32}


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
    return wanted


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
    plans = [trained.plan(name) for name in trained]
    return [store.write("adapter_model.safetensors", shard_stream(plans, trained.__getitem__))]


def _model(
    config: ExportJobConfig,
    sources: ExportSources,
    store: Store,
    written: Callable[[float], None],
) -> list[FileEntry]:
    merged = MergedWeights(
        SafetensorsFolder(sources.base),
        trained_weights(sources.checkpoint),
        torch_dtype(export_dtype(config)),
        tied_weights(sources.base),
    )
    layout = _layout(merged.plans(), byte_size(config.spec.max_shard_size))
    total = sum(plan.bytes for plans in layout.values() for plan in plans)
    files, done = [], 0
    for name, plans in layout.items():
        files.append(store.write(name, shard_stream(plans, merged.tensor)))
        done += sum(plan.bytes for plan in plans)
        written(done / max(1, total))
    if len(layout) > 1:
        files.append(store.write("model.safetensors.index.json", weight_index(layout)))
    return files


def _layout(plans: list[TensorPlan], max_bytes: int) -> dict[str, list[TensorPlan]]:
    cut = shards(plans, max_bytes)
    if len(cut) == 1:
        return {"model.safetensors": cut[0]}
    return {
        f"model-{number:05d}-of-{len(cut):05d}.safetensors": part
        for number, part in enumerate(cut, start=1)
    }


def _companions(
    config: ExportJobConfig, sources: ExportSources, prompting: Prompting
) -> Iterator[tuple[str, bytes]]:
    if exports_adapter(config):
        trained = (sources.checkpoint / "adapter_config.json").read_bytes()
        name = config.model.name
        yield "adapter_config.json", adapter_config(trained, name, config.model.commit)
    else:
        dtype = str(torch_dtype(export_dtype(config))).removeprefix("torch.")
        yield "config.json", model_config(sources.base, dtype)
    yield "generation_config.json", generation_config(sources.base, prompting.end_tokens)
    yield from tokenizer_files(sources.base, prompting.chat_template)
    yield from licence_files(sources.base)


def tied_weights(base: Path) -> Mapping[str, str]:
    """Return the tensors that the architecture takes from others, and from which."""
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415 - seconds to import

    config = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    if not getattr(config, "tie_word_embeddings", False):
        return {}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    tied: Mapping[str, str] = model.all_tied_weights_keys
    return tied
