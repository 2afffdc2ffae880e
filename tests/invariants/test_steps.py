"""The arithmetic of a step holds however it is cut, packed or spread over ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load

import finetune_trainer.run  # noqa: F401 - loaded once, then inherited by every forked rank
from finetune_trainer.data import micro_batch, rank_step
from finetune_trainer.engine import Engine
from finetune_trainer.plan import Plan, PlanSettings
from finetune_trainer.probes import probe
from finetune_trainer.problems.causal_lm import CausalLanguageModelling
from finetune_trainer.tensor_file import read_tensors
from finetune_trainer.token_cache import TokenCache
from toy_llama import VOCABULARY, token_cache
from toy_task import gradients, tensors, toy_engine
from training_ground import TrainingGround

CACHE = token_cache(8)
QUIET = {
    "evaluation": {"atStart": False, "generateSamples": 0, "everyEpochs": 0.0},
    "checkpoint": {"everySeconds": 0},
}


def accumulated(engine: Engine, cuts) -> dict[str, torch.Tensor]:
    weight = 1.0 / int(CACHE.supervised.sum())
    for number, samples in enumerate(cuts):
        batch = micro_batch(CACHE, samples, weight, number=number)
        engine.backward(engine.loss_sum(batch, last=number == len(cuts) - 1))
    return gradients(engine)


@pytest.mark.parametrize(
    "cuts",
    [
        pytest.param([range(4), range(4, 8)], id="two"),
        pytest.param([[0], [1, 2, 3, 4, 5, 6], [7]], id="three, uneven"),
        pytest.param([[i] for i in range(8)], id="eight"),
        pytest.param([range(8), []], id="one and an empty one"),
    ],
)
@pytest.mark.parametrize("full", [True, False], ids=["full", "LoRA"])
def test_the_cut_into_micro_batches_does_not_change_the_gradient(tmp_path, cuts, full):
    whole = accumulated(toy_engine(tmp_path, full=full), [range(8)])
    split = accumulated(toy_engine(tmp_path, full=full), cuts)
    assert whole.keys() == split.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(split[name], gradient, rtol=0, atol=1e-6)


def test_an_empty_micro_batch_has_a_loss_of_zero_that_reaches_every_gradient(tmp_path):
    engine = toy_engine(tmp_path)
    loss = engine.loss_sum(micro_batch(CACHE, [], 1.0), last=True)
    engine.backward(loss)
    assert loss.item() == 0.0
    named = dict(engine.task.model.named_parameters())
    assert gradients(engine).keys() == named.keys()
    assert all(not gradient.any() for gradient in gradients(engine).values())


def test_documents_of_one_row_have_the_losses_they_have_alone(tmp_path):
    task = toy_engine(tmp_path).task
    packed = task.row_losses(micro_batch(CACHE, range(8), 1.0))
    alone = torch.cat([task.row_losses(micro_batch(CACHE, [i], 1.0)) for i in range(8)])
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-6)


def test_changing_one_document_leaves_the_losses_of_its_neighbour_bit_for_bit(tmp_path):
    task = toy_engine(tmp_path).task
    lengths = CACHE.lengths
    changed = CACHE.tokens.copy()
    changed[: lengths[0]] = (changed[: lengths[0]] + 7) % VOCABULARY
    other = TokenCache(changed, CACHE.flags, CACHE.offsets, CACHE.rows)
    own = int(CACHE.supervised[0])
    before = task.row_losses(micro_batch(CACHE, [0, 1], 1.0))
    after = task.row_losses(micro_batch(other, [0, 1], 1.0))
    assert not torch.equal(before[:own], after[:own])
    assert torch.equal(before[own:], after[own:])


def test_no_row_is_labelled_with_a_token_of_another_sample(tmp_path):
    everything = TokenCache(CACHE.tokens, CACHE.flags | 1, CACHE.offsets, CACHE.rows)
    batch = micro_batch(everything, range(8), 1.0)
    assert len(batch.rows) == len(everything.tokens) - 8
    ends = np.cumsum(everything.lengths) - 1
    assert not set(batch.rows.tolist()) & set(ends.tolist())


def test_supervised_rows_are_counted_as_they_are_cut(tmp_path):
    batches = [micro_batch(CACHE, [i], 1.0) for i in range(8)]
    assert [len(batch.rows) for batch in batches] == CACHE.supervised.tolist()


def test_the_weights_of_a_step_sum_to_one_over_all_ranks():
    plan = Plan(
        CACHE.lengths, CACHE.supervised, PlanSettings(seed=1, samples=5, budget=30, grain=1)
    )
    for world in (1, 2, 3):
        for number in range(plan.total_steps):
            steps = [rank_step(CACHE, plan, number, rank, world) for rank in range(world)]
            total = sum(float(b.weights.sum()) for one in steps for b in one.batches)
            assert total == pytest.approx(1.0, abs=1e-6)


def test_one_two_and_three_ranks_train_the_same_weights(tmp_path):
    """19 samples: uneven ranks, empty micro-batches and a short last step."""
    found = []
    plan = {"totalSteps": 6, "stepsPerEpoch": 3, "maxTokensPerDevice": 40}
    for ranks in (1, 2, 3):
        ground = TrainingGround(tmp_path / str(ranks), train=19)
        config = ground.config(ranks=ranks, plan=plan, **QUIET) | {"grain": 1}
        found.append(load(ground.weights(ground.forked(config).completed())))
    for other in found[1:]:
        for name, tensor in found[0].items():
            torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bad_step", [0, 3], ids=["first step", "later step"])
def test_an_update_that_is_not_finite_changes_nothing(tmp_path, bad_step):
    engine = toy_engine(tmp_path)
    batch = micro_batch(CACHE, range(8), 0.01)
    for _ in range(bad_step):
        engine.backward(engine.loss_sum(batch, last=True))
        engine.clip_and_step(1.0, 1.0)
    before = tensors(engine)
    engine.backward(engine.loss_sum(batch, last=True) * float("nan"))
    engine.clip_and_step(1.0, 1.0)
    engine.backward(engine.loss_sum(batch, last=True))
    engine.clip_and_step(1.0, 1.0)
    after = tensors(engine)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(not moment.any() for name, moment in after.items() if name not in before)
    assert engine.diverged()


def test_a_run_that_diverges_ends_22_and_keeps_only_finite_checkpoints(tmp_path, monkeypatch):
    forward = CausalLanguageModelling.forward

    def poisoned(self, batch):
        return forward(self, batch) * (float("nan") if batch.step == 4 else 1.0)

    monkeypatch.setattr(CausalLanguageModelling, "forward", poisoned)
    ground = TrainingGround(tmp_path)
    config = ground.config(**QUIET | {"checkpoint": {"everySteps": 1, "keepLast": 9}})
    (outcome,) = ground.forked(config).outcomes()
    assert outcome.failure_class == "NotFinite"
    assert "step 5" in outcome.message
    assert outcome.checkpoint is None or outcome.checkpoint.step <= 4
    for path in ground.folder.glob("claims/results/**/*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in read_tensors(path.read_bytes()).values())


def test_dropout_is_drawn_by_micro_batch_number_and_again_alike(tmp_path):
    task = toy_engine(tmp_path, full=False, dropout=0.5).task
    for name, parameter in task.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(parameter)
    losses = [task(micro_batch(CACHE, range(4), 1.0, number=n)).item() for n in (0, 1, 0)]
    assert losses[0] == losses[2] != losses[1]


def test_adapters_do_not_depend_on_the_global_random_state(tmp_path):
    torch.manual_seed(1)
    one = tensors(toy_engine(tmp_path, full=False))
    torch.manual_seed(2)
    other = tensors(toy_engine(tmp_path, full=False))
    assert all(torch.equal(other[name], tensor) for name, tensor in one.items())


def test_the_probe_accepts_a_dense_model(tmp_path):
    probe(toy_engine(tmp_path, full=False).task)
    probe(toy_engine(tmp_path, tied=True).task)
