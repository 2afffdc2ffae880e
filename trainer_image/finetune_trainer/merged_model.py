"""A model folder made of a base and a checkpoint: streamed, summed in 32 bit, loaded like any."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from finetune_api.model_settings import Adapter, Model, Quantization
from finetune_trainer.adapter_targets import saved_modules
from finetune_trainer.merge import MergedWeights, SafetensorsFolder, SeenFolder, trained_weights
from finetune_trainer.model_record import ModelRecord, recorded_model
from finetune_trainer.quantisation import Quantiser, quantise, quantised_names, quantiser
from finetune_trainer.weight_shards import TensorPlan, shard_stream, shards, weight_index

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from finetune_trainer.store import FileEntry, Store

HELD = {"BFloat16": torch.bfloat16, "Float16": torch.float16, "Float32": torch.float32}


def merged_weights(
    base: Path, checkpoint: Path, dtype: torch.dtype | None, *, original: bool = False
) -> MergedWeights:
    """Return the tensors of base and checkpoint together.

    A base that was quantised in training is rounded to its codes first, because that is what the
    adapter learned to correct; `original` takes the unquantised weights instead. Without a `dtype`
    changed tensors become float32, the others keep their own.
    """
    record = recorded_model(checkpoint)
    folder = SafetensorsFolder(base) if original else seen_base(base, record)
    return MergedWeights(folder, trained_weights(checkpoint), dtype, tied_weights(base))


def seen_base(base: Path, record: ModelRecord) -> SafetensorsFolder:
    """Return a base's tensors as products saw them under a record."""
    held = HELD.get(record.held, torch.float32)
    how = _quantiser(record, held)
    if how is None:
        return SafetensorsFolder(base)
    model = _skeleton(base)
    names = [f"{name}.weight" for name in quantised_names(model, _whole(model, record))]
    return SeenFolder(base, lambda weight: how.seen(weight.to(held)), names)


def hold_as_recorded(model: Any, record: ModelRecord) -> None:
    """Quantise a loaded base as it was in the training that left the record."""
    how = _quantiser(record, model.dtype)
    if how is not None:
        quantise(model, how, model.device, _whole(model, record))


def tied_weights(base: Path) -> Mapping[str, str]:
    """Return the tensors that the architecture takes from others, and from which."""
    config = _config(base)
    if not getattr(config, "tie_word_embeddings", False):
        return {}
    tied: Mapping[str, str] = _skeleton(base).all_tied_weights_keys
    return tied


def write_weights(
    store: Store, merged: MergedWeights, max_bytes: int, written: Callable[[float], None]
) -> list[FileEntry]:
    """Write weights in shards with their index; `written` hears the share 0…1."""
    layout = _layout(merged.plans(), max_bytes)
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


def _quantiser(record: ModelRecord, dtype: torch.dtype) -> Quantiser | None:
    settings = Model(
        name="as/recorded", double_quantization=record.double, int8_threshold=record.threshold
    )
    return quantiser(Quantization(record.quantization), settings, dtype)


def _whole(model: Any, record: ModelRecord) -> list[str]:
    return saved_modules(model, Adapter(modules_to_save=list(record.whole) or None))


def _config(base: Path) -> Any:
    from transformers import AutoConfig  # noqa: PLC0415 - seconds to import

    return AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False)


def _skeleton(base: Path) -> Any:
    """Return the model of a folder without weights."""
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - seconds to import

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(_config(base), trust_remote_code=False)
