"""Row cross-entropy equals the library's on full logits, for every form of logits and head."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional as F

from finetune_trainer import row_loss
from finetune_trainer.problems.causal_lm import logit_form
from finetune_trainer.row_loss import (
    PLAIN,
    LogitForm,
    chunk_rows,
    recomputed_cross_entropy,
    row_cross_entropy,
    row_scores,
)

LABELS = torch.tensor([0, 4, 2, 2, 1, 6, 3])
FORMS = {
    "plain": PLAIN,
    "scaled": LogitForm(scale=0.3),
    "soft-capped": LogitForm(cap=0.7),
    "scaled, capped, smoothed": LogitForm(scale=2.0, cap=1.5, smoothing=0.2),
}


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def reference(hidden, head, weights, form):
    logits = hidden @ head.T * form.scale
    if form.cap is not None:
        logits = torch.tanh(logits / form.cap) * form.cap
    losses = F.cross_entropy(logits, LABELS, reduction="none", label_smoothing=form.smoothing)
    return (losses * weights).sum()


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("trained", [True, False], ids=["head trained", "head frozen"])
@pytest.mark.parametrize("chunk", [1, 3, 100], ids="chunks of {}".format)
def test_row_loss_and_gradients_equal_those_of_full_logits(monkeypatch, trained, chunk, form):
    monkeypatch.setattr(row_loss, "chunk_rows", lambda _: chunk)
    weights = drawn(7).abs()
    hidden, head = drawn(7, 5).requires_grad_(), drawn(9, 5).requires_grad_(trained)
    loss = row_cross_entropy(hidden, head, LABELS, weights, form)
    (loss * 3).backward()
    other, weight = hidden.detach().requires_grad_(), head.detach().requires_grad_()
    expected = reference(other, weight, weights, form)
    (expected * 3).backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(hidden.grad, other.grad)
    assert (head.grad is not None) == trained
    if trained:
        torch.testing.assert_close(head.grad, weight.grad)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_head_with_its_own_forward_gives_the_same_loss_and_gradients(monkeypatch, form):
    monkeypatch.setattr(row_loss, "chunk_rows", lambda _: 2)
    weights, layer = drawn(7).abs(), nn.Linear(5, 9, bias=False)
    hidden, other = (drawn(7, 5).requires_grad_() for _ in range(2))
    loss = recomputed_cross_entropy(hidden, layer, LABELS, weights, form, vocabulary=9)
    loss.backward()
    weight = layer.weight.detach().requires_grad_()
    expected = reference(other, weight, weights, form)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(hidden.grad, other.grad)
    torch.testing.assert_close(layer.weight.grad, weight.grad)


def test_a_head_with_its_own_forward_holds_the_logits_of_one_chunk_only(monkeypatch):
    monkeypatch.setattr(row_loss, "chunk_rows", lambda _: 2)
    saved = []
    pack = torch.autograd.graph.saved_tensors_hooks(
        lambda one: saved.append(one.shape) or one, lambda one: one
    )
    layer, hidden = nn.Linear(5, 90, bias=False), drawn(7, 5).requires_grad_()
    with pack:
        recomputed_cross_entropy(hidden, layer, LABELS, drawn(7), PLAIN, vocabulary=90)
    assert not [shape for shape in saved if 90 in shape]


def test_measured_losses_are_neither_smoothed_nor_weighted():
    hidden, layer = drawn(7, 5), nn.Linear(5, 9, bias=False)
    form = LogitForm(scale=2.0, smoothing=0.3)
    expected = F.cross_entropy(layer(hidden) * 2, LABELS, reduction="none")
    losses, hits = row_scores(hidden, layer, LABELS, form, vocabulary=9)
    torch.testing.assert_close(losses, expected)
    assert hits.tolist() == (layer(hidden).argmax(-1) == LABELS).tolist()


def test_without_rows_the_loss_is_zero_and_connected():
    none = torch.zeros(0, dtype=torch.int64)
    for through in ("plain", "own forward"):
        hidden = torch.zeros(0, 5, requires_grad=True)
        head = nn.Linear(5, 9, bias=False)
        if through == "plain":
            loss = row_cross_entropy(hidden, head.weight, none, none.float())
        else:
            loss = recomputed_cross_entropy(hidden, head, none, none.float(), PLAIN, vocabulary=9)
        loss.backward()
        assert loss.item() == 0.0
        assert hidden.grad.shape == (0, 5)
        # Ranks reduce a shared head's gradients together: one without rows has zeros, not nothing.
        assert head.weight.grad.tolist() == torch.zeros(9, 5).tolist()


def test_a_loss_that_is_not_finite_makes_every_gradient_so():
    hidden, head = torch.zeros(1, 1).requires_grad_(), torch.zeros(2, 1).requires_grad_()
    weights = torch.tensor([float("inf")])
    row_cross_entropy(hidden, head, torch.tensor([0]), weights).backward()
    assert not hidden.grad.isfinite().any()
    assert not head.grad.isfinite().any()


def test_autocast_casts_the_head_once_however_many_chunks(monkeypatch):
    monkeypatch.setattr(row_loss, "chunk_rows", lambda _: 2)
    casts = []
    monkeypatch.setattr(
        row_loss, "_cast", lambda one: casts.append(one.shape) or one.to(torch.bfloat16)
    )
    hidden, head = drawn(7, 5).requires_grad_(), drawn(9, 5)
    with torch.autocast("cpu", torch.bfloat16):
        loss = row_cross_entropy(hidden, head, LABELS, torch.ones(7))
        loss.backward()
    assert casts == [(7, 5), (9, 5)]
    assert (loss.dtype, hidden.grad.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(
        loss, F.cross_entropy(hidden @ head.T, LABELS, reduction="sum"), rtol=2e-2, atol=0
    )


@pytest.mark.parametrize(
    ("model_type", "values", "form"),
    [
        ("llama", {}, PLAIN),
        ("granite", {"logits_scaling": 8.0}, LogitForm(scale=0.125)),
        ("cohere", {"logit_scale": 0.0625}, LogitForm(scale=0.0625)),
        ("gemma2", {"final_logit_softcapping": 30.0}, LogitForm(cap=30.0)),
    ],
)
def test_the_form_of_the_logits_comes_from_the_models_config(model_type, values, form):
    config = transformers.AutoConfig.for_model(model_type, **values)
    assert logit_form(config, 0.0) == form


@pytest.mark.parametrize(("vocabulary", "rows"), [(128_256, 896), (32_000, 3840), (50, 8192)])
def test_chunks_keep_within_the_byte_budget(vocabulary, rows):
    assert chunk_rows(vocabulary) == rows
