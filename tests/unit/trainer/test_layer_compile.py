"""Compiled layers compute the same, and one graph serves every length."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.utils import counters

from finetune_trainer.data import micro_batch
from finetune_trainer.engine import Engine
from finetune_trainer.layer_compile import WORTH_STEPS, compile_layers
from finetune_trainer.model import load_base
from finetune_trainer.problems.causal_lm import CausalLanguageModelling
from run_configs import run_config
from strategy_ground import ranks, take_steps, toy_parts
from toy_llama import token_cache, toy_llama_folder

CACHE = token_cache(12)
BATCHES = [(0, 1, 2), (3, 4), (5, 6, 7, 8), (9,), (10, 11)]


def losses(folder, compile_setting):
    model = load_base(toy_llama_folder(folder / "toy"), torch.float32).train()
    run = run_config(training={"compile": compile_setting})
    compiled = compile_layers(model, run, torch.device("cpu"), backend="aot_eager")
    task = CausalLanguageModelling(model, 5)
    found = []
    for samples in BATCHES:
        loss = task(micro_batch(CACHE, samples, 0.1))
        loss.backward()
        found.append(loss.item())
    return compiled, found, [one.grad for one in task.parameters()]


@pytest.mark.filterwarnings("ignore")
def test_compiled_layers_give_the_same_losses_and_gradients_with_few_graphs(tmp_path):
    torch._dynamo.reset()
    counters.clear()
    none, plain, gradients = losses(tmp_path, "Never")
    two, compiled, others = losses(tmp_path, "Always")
    assert (none, two) == (0, 2)
    assert compiled == pytest.approx(plain, abs=1e-5)
    for ours, theirs in zip(others, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    # Before and after attention, each also for the first batch's own sizes: not one per length.
    assert counters["stats"]["unique_graphs"] <= 4
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("changes", "device"),
    [
        pytest.param({"plan": {"totalSteps": WORTH_STEPS - 1}}, "cuda", id="short run"),
        pytest.param({"plan": {"totalSteps": WORTH_STEPS}}, "cpu", id="on a CPU"),
        pytest.param(
            {"plan": {"totalSteps": WORTH_STEPS}, "intermediateDropout": 0.1}, "cuda", id="dropout"
        ),
        pytest.param(
            {"plan": {"totalSteps": WORTH_STEPS, "checkpointedLayers": 1}}, "cuda", id="recomputed"
        ),
        pytest.param(
            {"plan": {"totalSteps": WORTH_STEPS, "strategy": "FSDP"}}, "cuda", id="sharded"
        ),
    ],
)
def test_auto_compiles_only_where_it_pays(tmp_path, changes, device):
    model = load_base(toy_llama_folder(tmp_path / "toy"), torch.float32)
    run = run_config(training={"compile": "Auto"}, **changes)
    assert compile_layers(model, run, torch.device(device)) == 0


def test_auto_compiles_long_runs_on_gpus(tmp_path):
    model = load_base(toy_llama_folder(tmp_path / "toy"), torch.float32)
    run = run_config(training={"compile": "Auto"}, plan={"totalSteps": WORTH_STEPS})
    assert compile_layers(model, run, torch.device("cuda"), backend="eager") == 2


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore")
def test_compiled_layers_train_the_same_on_two_ranks(tmp_path):
    """Gradients of compiled layers meet the reducer's hooks; one rank may have less to do."""
    torch._dynamo.reset()
    base = toy_llama_folder(tmp_path / "toy")

    def work(world):
        found = []
        for setting in ("Never", "Always"):
            task, update = toy_parts(base, full=False)
            run = run_config(training={"compile": setting})
            made = compile_layers(task.model, run, world.device, backend="aot_eager")
            assert made == (2 if setting == "Always" else 0)
            engine = Engine(task, update, world, torch.float32)
            take_steps(engine, 0, 2)
            found.append({name: one.tensor for name, one in engine._weight_targets().items()})
        for name, plain in found[0].items():
            torch.testing.assert_close(found[1][name], plain, rtol=1e-5, atol=1e-6)

    ranks(tmp_path, 2, work)
