"""Cross-entropy of chosen rows, chunk by chunk, so that the logits of all rows never exist.

Shape suffixes: `R` supervised rows, `H` hidden, `V` vocabulary, `C` rows of a chunk.
"""
# ruff: noqa: N803, N806 - tensors carry shape suffixes

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

LOGIT_BYTES = 500_000_000
"""Budget of one chunk's float32 logits."""
MOST_ROWS = 8192

Logits = Callable[[Tensor], Tensor]
"""A head with a forward of its own, [C, H] -> [C, V]."""


@dataclass(frozen=True)
class LogitForm:
    """What a model does to its head's product, and what the loss makes of it."""

    scale: float = 1.0
    """scale multiplies the logits (Granite, Cohere)."""
    cap: float | None = None
    """cap bounds them to cap x tanh(logit / cap), after the scale (Gemma)."""
    smoothing: float = 0.0
    """smoothing e: the target is (1 - e) x one-hot + e / V (arXiv:1512.00567, section 7)."""

    def shaped(self, logits_CV: Tensor) -> Tensor:
        """Return the model's logits as float32."""
        logits = logits_CV.float()
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)

    def losses(self, logits_CV: Tensor, labels_C: Tensor) -> Tensor:
        """Return float32[C]: the cross-entropy of shaped logits, in nats."""
        aim = logits_CV.gather(1, labels_C[:, None])[:, 0]
        if self.smoothing:
            aim = (1 - self.smoothing) * aim + self.smoothing * logits_CV.mean(-1)
        return logits_CV.logsumexp(-1) - aim

    def slopes(self, logits_CV: Tensor, labels_C: Tensor, weights_C: Tensor) -> Tensor:
        """Return d(sum of weight x loss) / d(head's product), float32[C, V]."""
        slopes_CV = logits_CV.softmax(-1)
        if self.smoothing:
            slopes_CV -= self.smoothing / logits_CV.shape[1]
        hit = slopes_CV.new_full((labels_C.shape[0], 1), self.smoothing - 1.0)
        slopes_CV.scatter_add_(1, labels_C[:, None], hit).mul_(weights_C[:, None] * self.scale)
        if self.cap is not None:
            slopes_CV.mul_(1 - (logits_CV / self.cap) ** 2)
        return slopes_CV


PLAIN = LogitForm()


def chunk_rows(vocabulary: int) -> int:
    """Return how many rows' float32 logits fit `LOGIT_BYTES`: a multiple of 128, at most 8,192."""
    return max(128, min(MOST_ROWS, LOGIT_BYTES // (4 * vocabulary) // 128 * 128))


def row_cross_entropy(
    hidden_RH: Tensor,
    head_VH: Tensor,
    labels_R: Tensor,
    weights_R: Tensor,
    form: LogitForm = PLAIN,
) -> Tensor:
    """Return float32[]: sum over rows of weight x loss; zero, but connected, for no rows.

    The gradient of a loss that is not finite is not finite either, in every element: the gradient
    norm, which all ranks share, then tells of it.
    """
    result: Tensor = _RowCrossEntropy.apply(hidden_RH, head_VH, labels_R, weights_R, form)
    return result


def recomputed_cross_entropy(
    hidden_RH: Tensor,
    head: Logits,
    labels_R: Tensor,
    weights_R: Tensor,
    form: LogitForm,
    *,
    vocabulary: int,
) -> Tensor:
    """Return the same through a head that is no plain linear layer, recomputed in backward."""

    def share(hidden: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        return (weights * form.losses(form.shaped(head(hidden)), labels)).sum()

    total = hidden_RH.new_zeros((), dtype=torch.float32)
    for part in _chunks(hidden_RH.shape[0], chunk_rows(vocabulary)):
        given = hidden_RH[part], labels_R[part], weights_R[part]
        total = total + checkpoint(share, *given, use_reentrant=False)
    return total


@torch.no_grad()
def row_scores(
    hidden_RH: Tensor, head: Logits, labels_R: Tensor, form: LogitForm, *, vocabulary: int
) -> tuple[Tensor, Tensor]:
    """Return float32[R], -log p(label) in nats, and bool[R], whether the label is likeliest.

    No gradients, and no smoothing: the numbers of two runs compare whatever they trained with.
    """
    plain, losses, hits = LogitForm(form.scale, form.cap), [], []
    for part in _chunks(hidden_RH.shape[0], chunk_rows(vocabulary)):
        logits_CV, labels_C = plain.shaped(head(hidden_RH[part])), labels_R[part]
        losses.append(plain.losses(logits_CV, labels_C))
        hits.append(logits_CV.argmax(-1) == labels_C)
    return torch.cat(losses), torch.cat(hits)


class _RowCrossEntropy(torch.autograd.Function):
    """Weighted sum of row losses whose gradient is computed in forward, chunk by chunk.

    The weights are known before the forward, so softmax and one-hot are turned into the gradient
    while the chunk's logits exist.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_RH: Tensor,
        head_VH: Tensor,
        labels_R: Tensor,
        weights_R: Tensor,
        form: LogitForm,
    ) -> Tensor:
        """Return float32[]: the sum over rows of weight x loss."""
        # Cast once: autocast would cast the head anew for every chunk.
        hidden, head = _cast(hidden_RH), _cast(head_VH)
        total = hidden_RH.new_zeros((), dtype=torch.float32)
        hidden_grad = torch.zeros_like(hidden_RH)
        trained = ctx.needs_input_grad[1]
        head_grad = torch.zeros_like(head_VH, dtype=torch.float32) if trained else None
        for part in _chunks(hidden.shape[0], chunk_rows(head.shape[0])):
            logits_CV = form.shaped(hidden[part] @ head.T)
            total += (weights_R[part] * form.losses(logits_CV, labels_R[part])).sum()
            slopes = form.slopes(logits_CV, labels_R[part], weights_R[part]).to(hidden.dtype)
            hidden_grad[part] = slopes @ head
            if head_grad is not None:
                head_grad += slopes.T @ hidden[part]
        ctx.save_for_backward(hidden_grad, head_grad, total)
        ctx.head_dtype = head_VH.dtype
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients that forward computed."""
        hidden_grad, head_grad, total = ctx.saved_tensors
        grad = grad + total * 0
        head = None if head_grad is None else (head_grad * grad).to(ctx.head_dtype)
        return (hidden_grad * grad).to(hidden_grad.dtype), head, None, None, None


def _cast(tensor: Tensor) -> Tensor:
    kind = tensor.device.type
    return tensor.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else tensor


def _chunks(count: int, rows: int) -> Iterator[slice]:
    # An empty one where there are no rows: ranks that share a head's weights must all call it.
    return (slice(start, start + rows) for start in range(0, max(1, count), rows))
