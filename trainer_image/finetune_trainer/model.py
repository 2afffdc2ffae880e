"""Loads the base model, adds adapters, and proves on the real model that packing is sound."""

from __future__ import annotations

import math
import warnings
import zlib
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from finetune_api.training_settings import Adapter, AdapterType
from finetune_trainer.data import micro_batch
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.plan import INIT, mix
from finetune_trainer.problems.causal_lm import CausalLanguageModelling
from finetune_trainer.segments import SEGMENTS
from finetune_trainer.token_cache import TokenCache

TYPES = {"BFloat16": torch.bfloat16, "Float32": torch.float32}
PROBE_TOKENS = 16


def compute_type(name: str, device: torch.device) -> torch.dtype:
    """Return the type of arithmetic; Auto is bfloat16 where the GPU has it, else float32."""
    if name in TYPES:
        return TYPES[name]
    has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if has_bfloat16 else torch.float32


def load_base(folder: Path, dtype: torch.dtype) -> nn.Module:
    """Return the model of a local folder with segment attention; safetensors only, no code."""
    try:
        model: nn.Module = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=SEGMENTS,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    except (ValueError, KeyError, OSError) as error:
        raise ConfigurationError(
            f"spec.model: the trainer cannot load it ({type(error).__name__}); check that its "
            "architecture is known and its files are whole",
            reason="UnsupportedModel",
        ) from error
    return model


def trainable_model(
    base: nn.Module, adapter: Adapter, *, rank: int | None, alpha: float | None, seed: int
) -> nn.Module:
    """Return the model with what is trained in float32 and requiring gradients."""
    if adapter.type is AdapterType.NONE:
        return base.float().requires_grad_(requires_grad=True)
    # PEFT imports half of accelerate; full fine-tuning does not pay for it.
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415

    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank or 16,
        lora_alpha=alpha or 2 * (rank or 16),
        lora_dropout=adapter.dropout,
        use_rslora=adapter.rslora,
        target_modules=adapter.target_modules or "all-linear",
    )
    try:
        with warnings.catch_warnings():
            # peft 0.21 reads an attribute that transformers 5.23 has renamed.
            warnings.simplefilter("ignore", FutureWarning)
            model: nn.Module = get_peft_model(base, config, autocast_adapter_dtype=True)
    except ValueError as error:
        raise ConfigurationError(
            f"spec.adapter.targetModules: {adapter.target_modules} match no linear layer of the "
            "model; correct the names or remove the field",
            reason="NoMatchingParameters",
        ) from error
    _initialise(model, seed)
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
    return name.replace(".default.", ".") if ".lora_" in name else name


def probe(task: CausalLanguageModelling) -> None:
    """Check on the loaded model that documents in one row do not see each other, and the loss.

    Raises ConfigurationError (UnsupportedModel) for models that carry state along the row, and
    for heads that scale or cap their logits, which our loss would not notice.
    """
    training, vocabulary = task.training, int(task.head_weight.shape[0])
    task.eval()
    first, second, other = (_document(seed, vocabulary) for seed in range(3))
    alone, packed, swapped = _cache(second), _cache(first, second), _cache(other, second)
    device = next(task.parameters()).device
    with torch.no_grad():
        hidden = [
            task.hidden(micro_batch(cache, range(len(cache)), 1.0).to(device))[1 - PROBE_TOKENS :]
            for cache in (packed, swapped, alone)
        ]
        isolated = torch.equal(hidden[0], hidden[1]) and _close(hidden[0], hidden[2])
        ours = task.row_losses(micro_batch(alone, [0], 1.0).to(device)).float().mean()
        theirs = _library_loss(task, torch.from_numpy(second)[None].to(device))
    task.train(training)
    name = type(task.model).__name__
    if not isolated:
        raise ConfigurationError(
            f"spec.model: {name} lets samples of one row see each other; use another model",
            reason="UnsupportedModel",
        )
    if not _close(ours, theirs):
        raise ConfigurationError(
            f"spec.model: the head of {name} changes its logits in a way the loss does not know",
            reason="UnsupportedModel",
        )


def _initialise(model: nn.Module, seed: int) -> None:
    """Draw adapter weights by parameter name: equal on all ranks, whatever the module order."""
    for name, parameter in model.named_parameters():
        if "lora_A" not in name:
            continue
        stream = mix(seed, INIT, zlib.crc32(saved_name(name).encode()))
        generator = torch.Generator().manual_seed(stream)
        bound = 1 / math.sqrt(parameter.shape[1])
        drawn = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
        parameter.data.copy_(drawn)


def _library_loss(task: CausalLanguageModelling, tokens: Tensor) -> Tensor:
    causal: Any = task.model
    causal = causal.get_base_model() if hasattr(causal, "peft_config") else causal
    causal.set_attn_implementation("sdpa")
    logits = causal(input_ids=tokens.long(), use_cache=False).logits[0, :-1].float()
    causal.set_attn_implementation(SEGMENTS)
    return nn.functional.cross_entropy(logits, tokens[0, 1:].long())


def _close(one: Tensor, other: Tensor) -> bool:
    tolerance = 1e-3 if one.dtype == torch.float32 else 5e-2
    return torch.allclose(one.float(), other.float(), rtol=tolerance, atol=tolerance)


def _document(seed: int, vocabulary: int) -> Any:
    return torch.tensor(
        [mix(seed, i) % vocabulary for i in range(PROBE_TOKENS)], dtype=torch.int64
    ).numpy()


def _cache(*documents: Any) -> TokenCache:
    import numpy as np  # noqa: PLC0415

    tokens = np.concatenate(documents).astype(np.uint32)
    return TokenCache(
        tokens=tokens,
        flags=np.ones(len(tokens), np.uint8),
        offsets=np.arange(len(documents) + 1, dtype=np.int64) * PROBE_TOKENS,
        rows=np.arange(len(documents), dtype=np.uint32),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, set):
        return sorted(value)
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return value if isinstance(value, (str, int, float, bool, list, type(None))) else str(value)
