"""Recomputation changes what is kept and nothing else; the peak is measured on the longest rows."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from finetune_trainer.activation_memory import (
    MemoryPeak,
    checkpoint_layers,
    decoder_layers,
    longest_samples,
    peak_bytes,
    probed_memory,
    show_peak,
)
from finetune_trainer.data import micro_batch
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.model import load_base
from finetune_trainer.problems.causal_lm import CausalLanguageModelling
from toy_llama import token_cache, toy_llama_folder

LAYERS = 4
CACHE = token_cache(6)
CPU = torch.device("cpu")


def toy_task(folder, layers):
    model = load_base(toy_llama_folder(folder / "toy", layers=LAYERS), torch.float32).train()
    checkpoint_layers(model, layers, own_dropout=False)
    return CausalLanguageModelling(model, 5)


def step(task):
    """Return loss, gradients and the bytes that the forward kept."""
    kept = {}
    parameters = {one.data_ptr() for one in task.parameters()}

    def keep(tensor):
        if tensor.data_ptr() not in parameters:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = task(micro_batch(CACHE, range(6), 0.1))
    loss.backward()
    return loss.detach(), [one.grad for one in task.parameters()], sum(kept.values())


@pytest.mark.parametrize("layers", [1, 2, LAYERS], ids="{} of 4 layers".format)
def test_recomputed_layers_give_the_same_gradients_bit_for_bit(tmp_path, layers):
    loss, gradients, _ = step(toy_task(tmp_path, 0))
    again, recomputed, _ = step(toy_task(tmp_path, layers))
    assert torch.equal(loss, again)
    assert all(torch.equal(*pair) for pair in zip(gradients, recomputed, strict=True))


def test_every_recomputed_layer_keeps_less(tmp_path):
    kept = [step(toy_task(tmp_path, layers))[2] for layers in range(LAYERS + 1)]
    assert all(more > less for more, less in pairwise(kept))


def test_the_first_layers_are_the_recomputed_ones(tmp_path):
    task = toy_task(tmp_path, 3)
    flags = [layer.gradient_checkpointing for layer in decoder_layers(task.model)]
    assert flags == [True, True, True, False]


def test_recomputation_needs_no_gradient_of_the_embeddings(tmp_path):
    task = toy_task(tmp_path, 2)
    task.model.get_input_embeddings().weight.requires_grad_(requires_grad=False)
    embedded = task.model.get_input_embeddings()(torch.tensor([[1, 2]]))
    assert not embedded.requires_grad


def test_a_model_that_cannot_recompute_is_refused_by_the_field(tmp_path):
    model = load_base(toy_llama_folder(tmp_path / "toy"), torch.float32)
    type(model).supports_gradient_checkpointing = False
    try:
        with pytest.raises(ConfigurationError, match="gradientCheckpointing"):
            checkpoint_layers(model, 1, own_dropout=False)
    finally:
        del type(model).supports_gradient_checkpointing


@pytest.mark.parametrize(
    ("padded", "chosen"), [(False, [1, 3, 0]), (True, [1, 3])], ids=["packed", "padded"]
)
def test_the_probe_takes_the_longest_samples_that_one_micro_batch_holds(padded, chosen):
    assert longest_samples([5, 9, 2, 8, 4], 23 if padded else 24, padded=padded) == chosen


class Discarding:
    """An engine that counts what it is asked for."""

    device = CPU

    def __init__(self, task, error=None):
        self.task, self.error, self.discarded = task, error, 0

    def loss_sum(self, batch, *, last):
        assert last
        if self.error:
            raise self.error
        return self.task(batch)

    def backward(self, loss):
        loss.backward()

    def discard(self):
        self.discarded += 1
        self.task.zero_grad(set_to_none=True)


def test_the_probe_leaves_no_gradient_and_no_changed_weight(tmp_path):
    engine = Discarding(toy_task(tmp_path, 0))
    before = [one.clone() for one in engine.task.parameters()]
    peak = probed_memory(engine, micro_batch(CACHE, range(6), 0.1), 1)
    assert engine.discarded == 1
    assert all(one.grad is None for one in engine.task.parameters())
    assert all(torch.equal(*pair) for pair in zip(before, engine.task.parameters(), strict=True))
    assert peak.observed >= 1_000_000
    assert peak.deviation is None


def test_a_probe_that_fails_leaves_no_gradient_either(tmp_path):
    engine = Discarding(toy_task(tmp_path, 0), torch.OutOfMemoryError("all gone"))
    with pytest.raises(torch.OutOfMemoryError):
        probed_memory(engine, micro_batch(CACHE, range(6), 0.1), 1)
    assert engine.discarded == 1


@pytest.mark.parametrize(
    ("observed", "told"),
    [(100, False), (114, False), (86, False), (116, True), (84, True)],
    ids="{0} of 100 planned".format,
)
def test_a_peak_off_by_more_than_15_percent_is_told(caplog, observed, told):
    show_peak(MemoryPeak(observed * 10**9, 100 * 10**9, on_gpu=True), None)
    assert ("than planned" in caplog.text) == told


def test_on_a_cpu_the_peak_is_that_of_the_process():
    assert peak_bytes(CPU) > 10_000_000
