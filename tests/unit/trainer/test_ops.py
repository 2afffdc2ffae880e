"""Row cross-entropy equals the library's on full logits."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from finetune_trainer import ops
from finetune_trainer.ops import chunk_rows, row_cross_entropy, row_losses


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("trained", [True, False], ids=["head trained", "head frozen"])
@pytest.mark.parametrize("chunk", [1, 3, 100], ids="chunks of {}".format)
def test_row_loss_and_gradients_equal_those_of_full_logits(monkeypatch, trained, chunk):
    monkeypatch.setattr(ops, "chunk_rows", lambda _: chunk)
    labels, weights = torch.tensor([0, 4, 2, 2, 1, 6, 3]), drawn(7).abs()
    hidden, head = drawn(7, 5).requires_grad_(), drawn(9, 5).requires_grad_(trained)
    (row_cross_entropy(hidden, head, labels, weights) * 3).backward()
    other, weight = hidden.detach().requires_grad_(), head.detach().requires_grad_()
    losses = F.cross_entropy(other @ weight.T, labels, reduction="none")
    ((losses * weights).sum() * 3).backward()
    torch.testing.assert_close(hidden.grad, other.grad)
    assert (head.grad is not None) == trained
    if trained:
        torch.testing.assert_close(head.grad, weight.grad)
    torch.testing.assert_close(row_losses(hidden, head, labels), losses)


def test_without_rows_the_loss_is_zero_and_connected():
    hidden, head = torch.zeros(0, 5, requires_grad=True), drawn(9, 5).requires_grad_()
    none = torch.zeros(0, dtype=torch.int64)
    loss = row_cross_entropy(hidden, head, none, none.float())
    loss.backward()
    assert loss.item() == 0.0
    assert hidden.grad.shape == (0, 5)
    assert not head.grad.any()


@pytest.mark.parametrize(("vocabulary", "rows"), [(128_256, 896), (32_000, 3840), (50, 8192)])
def test_chunks_keep_within_the_byte_budget(vocabulary, rows):
    assert chunk_rows(vocabulary) == rows
