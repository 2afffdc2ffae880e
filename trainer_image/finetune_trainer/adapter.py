"""What is trained of a loaded model: an adapter with what goes beside it, or the model itself."""

from __future__ import annotations

import logging
import math
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import nn

from finetune_api.model_settings import Adapter, AdapterType
from finetune_trainer.adapter_targets import adapter_targets, saved_modules
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.fused_lora import fuse
from finetune_trainer.lean_layers import lean
from finetune_trainer.parameter_match import ParameterMatch, refuse_unmatched
from finetune_trainer.plan import INIT, mix
from finetune_trainer.vocabulary import NewRow, fuse_token_rows, grow_vocabulary, token_row_targets

MAGNITUDE = ".lora_magnitude_vector"


@dataclass(frozen=True)
class Trained:
    """What of the model is trained, resolved."""

    adapter: Adapter
    rank: int | None = None
    alpha: float | None = None
    seed: int = 0
    freeze: Sequence[str] = ()
    rows: Sequence[NewRow] = ()
    frozen_dtype: torch.dtype | None = None
    """frozen_dtype holds what full fine-tuning leaves unchanged; None = as loaded."""


def trainable_model(base: nn.Module, trained: Trained) -> nn.Module:
    """Return the model with what is trained in float32 and requiring gradients.

    Raises ConfigurationError (NoMatchingParameters) for a name pattern without a match.
    """
    lean(base)
    rows = grow_vocabulary(base, trained.rows)
    base.requires_grad_(requires_grad=False)
    if trained.adapter.type is AdapterType.NONE:
        model = _unfrozen(base, trained)
    else:
        model = _adapted(base, trained, rows)
        _initialise(model, trained.seed)
        fuse(model)
        fuse_token_rows(model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            # Masters: 16-bit weights would lose updates below their last bit.
            parameter.data = parameter.data.float()
    return model


def adapter_config(model: nn.Module, base_name: str) -> dict[str, Any] | None:
    """Return PEFT's adapter_config.json with the base named by its place, None without adapter."""
    configs = getattr(model, "peft_config", None)
    if configs is None:
        return None
    values = configs["default"].to_dict()
    values |= {"base_model_name_or_path": base_name, "inference_mode": True}
    return {name: _plain(value) for name, value in values.items()}


def saved_name(name: str) -> str:
    """Return a parameter's name as PEFT and transformers save it."""
    if MAGNITUDE in name:
        return name.removesuffix(".default.weight")
    name = name.replace(".modules_to_save.default.", ".")
    if ".lora_" in name:
        return name.replace(".default.", ".")
    return name.removesuffix(".default")


def _unfrozen(base: nn.Module, trained: Trained) -> nn.Module:
    """Train everything that `training.freeze` does not name; what it names keeps its type."""
    named, match = dict(base.named_parameters()), ParameterMatch(base)
    frozen: set[str] = set()
    for pattern in trained.freeze:
        matched = {name for name in named if match.matches(pattern, name)}
        if not matched:
            raise refuse_unmatched("freeze", pattern)
        frozen |= matched
    if len(frozen) == len(named):
        raise ConfigurationError(
            "spec.training.freeze: leaves nothing to train; freeze less",
            reason="NoMatchingParameters",
        )
    for name, parameter in named.items():
        parameter.requires_grad_(name not in frozen)
        if name in frozen and trained.frozen_dtype is not None:
            parameter.data = parameter.data.to(trained.frozen_dtype)
    return base


def _adapted(base: Any, trained: Trained, rows: Sequence[int]) -> nn.Module:
    # PEFT imports half of accelerate; full fine-tuning does not pay for it.
    # PEFT imports bitsandbytes, which asks for a package that fetches code; it is kept out.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415

    adapter, rank = trained.adapter, trained.rank or 16
    saved = saved_modules(base, adapter)
    tables = {base.get_input_embeddings(), base.get_output_embeddings()}
    tied = len({table.weight for table in tables}) == 1
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=trained.alpha or 2 * rank,
        lora_dropout=adapter.dropout,
        use_rslora=adapter.rslora,
        use_dora=adapter.type is AdapterType.DORA,
        target_modules=adapter_targets(base, adapter),
        modules_to_save=saved or None,
        trainable_token_indices=(token_row_targets(base, rows, saved) or None) if rows else None,
        ensure_weight_tying=tied and any(base.get_submodule(name) in tables for name in saved),
    )
    with warnings.catch_warnings():
        # peft 0.21 reads an attribute that transformers 5.23 has renamed, and warns where it ties
        # nothing because nothing that is saved is tied.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", "You have requested `ensure_weight_tying`")
        warnings.filterwarnings("ignore", "fan_in_fan_out is set")
        model: nn.Module = get_peft_model(base, config, autocast_adapter_dtype=True)
    return model


def _initialise(model: nn.Module, seed: int) -> None:
    """Draw adapter weights by parameter name: equal on all ranks, whatever the module order."""
    for name, parameter in model.named_parameters():
        if "lora_A" not in name or parameter.is_meta:
            continue
        parameter.data.copy_(drawn_factor(name, parameter.shape, seed))


def drawn_factor(name: str, shape: Sequence[int], seed: int) -> torch.Tensor:
    """Return float32 [R, K]: the first values of an adapter's first factor."""
    stream = mix(seed, INIT, zlib.crc32(saved_name(name).encode()))
    generator = torch.Generator().manual_seed(stream)
    bound = 1 / math.sqrt(shape[1])
    return torch.empty(tuple(shape)).uniform_(-bound, bound, generator=generator)


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, set):
        return sorted(value)
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return value if isinstance(value, (str, int, float, bool, list, type(None))) else str(value)
