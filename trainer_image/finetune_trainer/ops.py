"""Cross-entropy of chosen rows, chunk by chunk.

Shape suffixes: `R` supervised rows, `H` hidden, `V` vocabulary, `C` rows of a chunk.
"""
# ruff: noqa: N803, N806 - tensors carry shape suffixes

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LOGIT_BYTES = 500_000_000
"""Budget of one chunk's float32 logits."""


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
