"""Operations over packed rows: attention inside segments, cross-entropy of chosen rows.

Shape suffixes: `T` tokens of a micro-batch, `N` heads, `K` key-value heads, `E` head size,
`R` supervised rows, `H` hidden, `V` vocabulary, `C` rows of a chunk.
"""
# ruff: noqa: N803, N806 - tensors carry shape suffixes

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

SEGMENTS = "segments"
LOGIT_BYTES = 500_000_000
"""Budget of one chunk's float32 logits."""


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


def segments(  # noqa: PLR0913 - the library's signature
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001
    *,
    layout: Layout,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend causally inside each segment of one packed row; an `AttentionInterface` function.

    `query` is [1, N, T, E], `key` and `value` [1, K, T, E]; returns [1, T, N, E].
    """
    if _varlen_serves(query):
        return _varlen(query, key, value, layout, scaling, sliding_window), None
    shared = query.shape[1] != key.shape[1]
    parts = []
    for start, end in pairwise(layout.bounds):
        part = slice(start, end)
        window = _window_mask(end - start, sliding_window, query.device)
        parts.append(
            F.scaled_dot_product_attention(
                query[:, :, part],
                key[:, :, part],
                value[:, :, part],
                attn_mask=window,
                is_causal=window is None,
                scale=scaling,
                dropout_p=dropout if module.training else 0.0,
                enable_gqa=shared,
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2), None


def _varlen_serves(query: Tensor) -> bool:
    return (
        query.is_cuda
        and query.dtype in (torch.bfloat16, torch.float16)
        and query.shape[-1] <= 256
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
    )


def _varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    scaling: float | None,
    sliding_window: int | None,
) -> Tensor:
    from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: PLC0415 - CUDA only
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415

    repeats = query.shape[1] // key.shape[1]
    # Expanded for torch 2.11, whose kernel has no grouped heads in its signature.
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    query, key, value = (one[0].transpose(0, 1).contiguous() for one in (query, key, value))
    # Pinned: newer torch prefers cuDNN by shape, which would break bit-equal repeats.
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):
        attended = varlen_attn(
            query,
            key,
            value,
            layout.bounds_tensor,
            layout.bounds_tensor,
            layout.longest,
            layout.longest,
            scale=scaling,
            window_size=(-1 if sliding_window is None else sliding_window - 1, 0),
        )
    assert isinstance(attended, Tensor)  # noqa: S101 - for mypy: no auxiliary output was asked for
    return attended[None]


def _window_mask(length: int, sliding_window: int | None, device: torch.device) -> Tensor | None:
    if sliding_window is None or length <= sliding_window:
        return None
    ones = torch.ones(length, length, dtype=torch.bool, device=device)
    return ones.tril() & ones.triu(1 - sliding_window)


def chunk_rows(vocabulary: int) -> int:
    """Return how many rows' float32 logits fit `LOGIT_BYTES`: a multiple of 128, at most 8,192."""
    return max(128, min(8192, LOGIT_BYTES // (4 * vocabulary) // 128 * 128))


class RowCrossEntropy(torch.autograd.Function):
    """Weighted sum of row losses whose gradient is computed in forward, chunk by chunk.

    The weights are known before the forward, so softmax and one-hot are turned into the gradient
    while the chunk's logits exist: no logits of all rows are ever held.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_RH: Tensor,
        head_VH: Tensor,
        labels_R: Tensor,
        weights_R: Tensor,
        rows: int,
    ) -> Tensor:
        """Return float32[]: the sum over rows of weight x -log p(label)."""
        trained = ctx.needs_input_grad[1]
        total = hidden_RH.new_zeros((), dtype=torch.float32)
        hidden_grad = torch.zeros_like(hidden_RH)
        head_grad = torch.zeros_like(head_VH, dtype=torch.float32) if trained else None
        for start in range(0, hidden_RH.shape[0], rows):
            part = slice(start, start + rows)
            logits_CV = (hidden_RH[part] @ head_VH.T).float()
            weights_C = weights_R[part]
            total += (weights_C * _row_losses(logits_CV, labels_R[part])).sum()
            slopes_CV = logits_CV.softmax(-1)
            slopes_CV.scatter_add_(
                1, labels_R[part, None], slopes_CV.new_full((weights_C.shape[0], 1), -1.0)
            )
            slopes = (slopes_CV * weights_C[:, None]).to(hidden_RH.dtype)
            hidden_grad[part] = slopes @ head_VH
            if head_grad is not None:
                head_grad += (slopes.T @ hidden_RH[part]).float()
        ctx.save_for_backward(hidden_grad, head_grad)
        ctx.head_dtype = head_VH.dtype
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients that forward computed."""
        hidden_grad, head_grad = ctx.saved_tensors
        head = None if head_grad is None else (head_grad * grad).to(ctx.head_dtype)
        return (hidden_grad * grad).to(hidden_grad.dtype), head, None, None, None


def row_cross_entropy(
    hidden_RH: Tensor, head_VH: Tensor, labels_R: Tensor, weights_R: Tensor
) -> Tensor:
    """Return float32[]: sum over rows of weight x -log p(label); zero, but connected, for none."""
    rows = chunk_rows(head_VH.shape[0])
    result: Tensor = RowCrossEntropy.apply(hidden_RH, head_VH, labels_R, weights_R, rows)
    return result


@torch.no_grad()
def row_losses(hidden_RH: Tensor, head_VH: Tensor, labels_R: Tensor) -> Tensor:
    """Return float32[R]: -log p(label) of every row, in nats, without gradients."""
    rows = chunk_rows(head_VH.shape[0])
    parts = [
        _row_losses((hidden_RH[s : s + rows] @ head_VH.T).float(), labels_R[s : s + rows])
        for s in range(0, hidden_RH.shape[0], rows)
    ]
    return torch.cat(parts) if parts else hidden_RH.new_zeros(0, dtype=torch.float32)


def _row_losses(logits_CV: Tensor, labels_C: Tensor) -> Tensor:
    return logits_CV.logsumexp(-1) - logits_CV.gather(1, labels_C[:, None])[:, 0]
