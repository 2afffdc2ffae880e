"""Start-up probes: prove on the loaded model what packing and our loss assume of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from finetune_trainer.data import MicroBatch, micro_batch
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.fused_lora import FusedForward
from finetune_trainer.plan import mix
from finetune_trainer.problems.causal_lm import CausalLanguageModelling
from finetune_trainer.router_balance import unknown_balance
from finetune_trainer.segments import SEGMENT_LOOP, SEGMENTS, UnservedAttention
from finetune_trainer.token_cache import SUPERVISED

PROBE_TOKENS = 16
ROUNDING = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
ROUTED_EXPERTS = 1e-3
"""Routed experts sum what they are given in batches, so neighbours change the rounding."""

Document = NDArray[np.uint32]


class Documents:
    """Probe documents, all of their tokens supervised."""

    def __init__(self, *documents: Document) -> None:
        self._documents = documents

    def sample(self, number: int) -> tuple[Document, NDArray[np.uint8]]:
        """Return token ids and flags; the first token has no label."""
        flags = np.full(PROBE_TOKENS, SUPERVISED, np.uint8)
        flags[0] = 0
        return self._documents[number], flags


def probe(task: CausalLanguageModelling) -> None:
    """Raise ConfigurationError (UnsupportedModel) unless packed rows and our loss are right."""
    if not samples_stay_apart(task):
        raise ConfigurationError(
            f"spec.model: samples of {type(task.model).__name__} see each other in one row; use "
            "another model",
            reason="UnsupportedModel",
        )
    check_loss(task)


@torch.no_grad()
def samples_stay_apart(task: CausalLanguageModelling) -> bool:
    """Tell whether a document's hidden states are its own when another one shares its row.

    Bit for bit in dense models. False for layers that carry state along the row and for attention
    that segments do not serve; what else a forward raises is left to the caller.
    """
    first, second, other = (_document(seed, task.vocabulary) for seed in range(3))
    rows = [
        _packed(task, first, second),
        _packed(task, other, second),
        _packed(task, second),
    ]
    training = task.training
    task.eval()
    try:
        packed, swapped, alone = (task.hidden(one)[1 - PROBE_TOKENS :] for one in rows)
    except UnservedAttention:
        return False
    finally:
        task.train(training)
    return _equal(task, packed, swapped) and _close(packed, alone)


@torch.no_grad()
def check_loss(task: CausalLanguageModelling, *, padded: bool = False) -> None:
    """Compare our loss from hidden rows with the one from the model's own logits.

    Raises ConfigurationError (UnsupportedModel) for heads that scale or cap their logits in a way
    that our loss does not know, and for a router whose balancing loss is another than ours.
    """
    document = _document(1, task.vocabulary)
    batch = micro_batch(Documents(document), [0], 1.0, padded=padded)
    training, device = task.training, _device(task)
    task.eval()
    ours, dtype = task.row_losses(batch.to(device)).float().mean(), next(task.parameters()).dtype
    router = None if task.balance is None else task.router_loss(batch.to(device))
    tokens = torch.from_numpy(document.astype(np.int64))[None].to(device)
    theirs, balancing = _library_losses(task, tokens)
    task.train(training)
    if router is not None and not _close(router, balancing, like=dtype):
        raise unknown_balance(type(task.model).__name__)
    if not _close(ours, theirs, like=dtype):
        raise ConfigurationError(
            f"spec.model: the head of {type(task.model).__name__} changes its logits in a way the "
            "loss does not know; use another model",
            reason="UnsupportedModel",
        )


@torch.no_grad()
def check_adapters(
    model: nn.Module, held: Callable[[str, Any], nn.Module] = lambda _, layer: layer
) -> None:
    """Compare the fused forward of one adapted layer per class with PEFT's own.

    The layer's second factor is zero at first; for the comparison it is drawn and put back. `held`
    returns the layer of a name with values. Raises ConfigurationError (UnsupportedModel) where they
    differ by more than rounding.
    """
    seen: set[type] = set()
    layers: list[tuple[str, Any]] = list(model.named_modules())
    for name, layer in layers:
        kind: Any = type(layer)
        if not isinstance(layer, FusedForward) or kind in seen:
            continue
        seen.add(kind)
        ours, theirs = _both_forwards(held(name, layer), kind.__mro__[2])
        if not _close(ours, theirs):
            raise ConfigurationError(
                f"spec.adapter: the fused {kind.__name__} computes something else than PEFT on "
                "this model; report the model",
                reason="UnsupportedModel",
            )


def _both_forwards(layer: Any, original: type[nn.Module]) -> tuple[Tensor, Tensor]:
    up, training = layer.lora_B["default"].weight, layer.training
    kept, drawn = up.clone(), torch.Generator().manual_seed(1)
    up.copy_(torch.randn(up.shape, generator=drawn))
    width = layer.lora_A["default"].in_features
    x = torch.randn(PROBE_TOKENS, width, generator=drawn).to(up.device, _type_of(layer))
    layer.eval()
    both = layer(x), original.forward(layer, x)
    layer.train(training)
    up.copy_(kept)
    return both


def _type_of(layer: Any) -> torch.dtype:
    """Return the type of arithmetic; 4-bit weights are stored as integers."""
    dtype: torch.dtype = layer.base_layer.weight.dtype
    return dtype if dtype.is_floating_point else torch.bfloat16


def _library_losses(task: CausalLanguageModelling, tokens: Tensor) -> tuple[Tensor, Any]:
    """Return the mean loss of a row, and the balancing loss where the task has one."""
    wanted = {} if task.balance is None else {"output_router_logits": True}
    causal: Any = task.model
    causal = causal.get_base_model() if hasattr(causal, "peft_config") else causal
    ours = causal.config._attn_implementation
    if ours in (SEGMENTS, SEGMENT_LOOP):
        causal.set_attn_implementation("sdpa" if causal._supports_sdpa else "eager")
    output = causal(input_ids=tokens, use_cache=False, **wanted)
    if ours in (SEGMENTS, SEGMENT_LOOP):
        causal.set_attn_implementation(ours)
    loss = nn.functional.cross_entropy(output.logits[0, :-1].float(), tokens[0, 1:])
    return loss, getattr(output, "aux_loss", None)


def _packed(task: CausalLanguageModelling, *documents: Document) -> MicroBatch:
    return micro_batch(Documents(*documents), range(len(documents)), 1.0).to(_device(task))


def _device(task: CausalLanguageModelling) -> torch.device:
    return next(task.parameters()).device


def _equal(task: CausalLanguageModelling, one: Tensor, other: Tensor) -> bool:
    config: Any = task.model.config
    text = config.get_text_config()
    if any(getattr(text, name, None) for name in ("num_experts", "num_local_experts")):
        return torch.allclose(one.float(), other.float(), rtol=ROUTED_EXPERTS, atol=ROUTED_EXPERTS)
    return torch.equal(one, other)


def _close(one: Tensor, other: Tensor, like: torch.dtype | None = None) -> bool:
    tolerance = ROUNDING[like or one.dtype]
    return torch.allclose(one.float(), other.float(), rtol=tolerance, atol=tolerance)


def _document(seed: int, vocabulary: int) -> Document:
    return np.array([mix(seed, i) % vocabulary for i in range(PROBE_TOKENS)], dtype=np.uint32)
