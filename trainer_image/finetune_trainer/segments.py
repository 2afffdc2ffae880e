"""Attention inside the segments of a packed row, and which implementation of it a run uses.

Shape suffixes: `T` tokens of a micro-batch, `N` heads, `K` key-value heads, `E` head size.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface

from finetune_trainer.errors import ConfigurationError

SEGMENTS, SEGMENT_LOOP = "segments", "segment_loop"
LARGEST_HEAD = 256
"""Head size up to which the varlen kernels are built."""


@dataclass(frozen=True)
class Layout:
    """Where the segments of a micro-batch lie; attention never crosses their borders."""

    bounds: tuple[int, ...]
    """bounds are segment starts and the end, for loops on the host."""
    bounds_tensor: Tensor
    """bounds_tensor is the same as int32 on the device."""
    longest: int

    def to(self, device: torch.device) -> Layout:
        """Return the layout with its tensor on a device."""
        return Layout(self.bounds, self.bounds_tensor.to(device, non_blocking=True), self.longest)


class UnservedAttention(Exception):  # noqa: N818 - a fact about a model, not yet an error
    """The model asks attention for something that segments do not know."""


def segments(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend causally inside each segment of one packed row; an `AttentionInterface` function.

    `query` is [1, N, T, E], `key` and `value` [1, K, T, E]; returns [1, T, N, E]. Raises
    UnservedAttention for sinks and soft-capped scores.
    """
    drops = module.training and options.get("dropout", 0.0) > 0
    if drops or not varlen_serves(query.device, query.dtype, query.shape[-1]):
        # The kernel has no dropout.
        return segment_loop(module, query, key, value, attention_mask, **options)
    _check(options)
    layout, window = options["layout"], options.get("sliding_window")
    return _varlen(query, key, value, layout, options.get("scaling"), window), None


def segment_loop(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001
    **options: Any,
) -> tuple[Tensor, None]:
    """Do what `segments` does, on any device and in any type, one segment after another."""
    _check(options)
    layout, window = options["layout"], options.get("sliding_window")
    lengths = [end - start for start, end in pairwise(layout.bounds)]
    # Cut once: the gradient of a cut is one concatenation, that of every slice a row of zeros
    # (1.7 to 2.2 x forward and backward, 16 to 64 segments on one core).
    cuts = (torch.split(one, lengths, dim=2) for one in (query, key, value))
    parts = [
        _attended(module, part, window, options).transpose(1, 2) for part in zip(*cuts, strict=True)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1), None


# A compiled layer calls attention as it is: borders differ in every micro-batch, and a graph that
# knows them would be compiled anew for each.
AttentionInterface.register(SEGMENTS, torch.compiler.disable(segments))  # type: ignore[no-untyped-call]
AttentionInterface.register(
    SEGMENT_LOOP,
    torch.compiler.disable(segment_loop),  # type: ignore[no-untyped-call]
)


def varlen_serves(device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    """Tell whether torch's kernel for rows of segments takes these tensors."""
    return (
        device.type == "cuda"
        and dtype in (torch.bfloat16, torch.float16)
        and head_size <= LARGEST_HEAD
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


def use_flash_attention_3() -> None:
    """Make the varlen kernel FlashAttention 3; raise ConfigurationError where it is not built."""
    try:
        from torch.nn.attention import activate_flash_attention_impl  # noqa: PLC0415

        activate_flash_attention_impl("FA3")
    except (ImportError, RuntimeError, ValueError) as error:
        raise ConfigurationError(
            "spec.model.attention: FlashAttention3 is not in this image or does not run on this "
            "GPU; set Auto or Varlen",
        ) from error


def _attended(
    module: torch.nn.Module,
    part: tuple[Tensor, ...],
    window: int | None,
    options: dict[str, Any],
) -> Tensor:
    query, key, value = part
    band = _band(query.shape[2], window, query.device)
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=band,
        is_causal=band is None,
        scale=options.get("scaling"),
        dropout_p=options.get("dropout", 0.0) if module.training else 0.0,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: PLC0415 - CUDA only
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415

    known, more = _varlen_options(), dict[str, Any]()
    if torch.are_deterministic_algorithms_enabled() and "num_splits" in known:
        more["num_splits"] = 1
    if "enable_gqa" in known:
        more["enable_gqa"] = query.shape[1] != key.shape[1]
    elif (repeats := query.shape[1] // key.shape[1]) > 1:
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    # Pinned: newer torch prefers cuDNN by shape, which would break bit-equal repeats.
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):
        attended = varlen_attn(
            query[0].transpose(0, 1).contiguous(),
            key[0].transpose(0, 1).contiguous(),
            value[0].transpose(0, 1).contiguous(),
            layout.bounds_tensor,
            layout.bounds_tensor,
            layout.longest,
            layout.longest,
            scale=scaling,
            window_size=(-1 if window is None else window - 1, 0),
            **more,
        )
    assert isinstance(attended, Tensor)  # noqa: S101 - for mypy: no auxiliary output was asked for
    return attended[None]


@cache
def _varlen_options() -> frozenset[str]:
    """Return the arguments of the kernel; torch 2.11's neither shares keys nor counts splits."""
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415

    return frozenset(inspect.signature(varlen_attn).parameters)


def _check(options: dict[str, Any]) -> None:
    if options.get("softcap") or options.get("s_aux") is not None:
        raise UnservedAttention
    if options.get("layout") is None:
        raise UnservedAttention


def _band(length: int, window: int | None, device: torch.device) -> Tensor | None:
    if window is None or length <= window:
        return None
    ones = torch.ones(length, length, dtype=torch.bool, device=device)
    return ones.tril() & ones.triu(1 - window)
