"""What a step costs, counted: no read by the host, no collective but gradients', few operations."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import finetune_trainer.run  # noqa: F401 - loaded once, then inherited by every forked rank
from finetune_trainer.data import micro_batch, rank_step
from finetune_trainer.engine import Engine
from finetune_trainer.loop import Loop
from finetune_trainer.losses import ONE_EACH
from one_rank import one_rank
from step_counters import host_reads, operations, saved_bytes
from tiny_models import tiny_model
from toy_llama import token_cache
from training_ground import TrainingGround

STEPS, SAMPLES = 5, 4
UNCOUNTED = 2
"""Steps before which DDP tells all ranks, once, how it orders its buckets."""
WIDTH, HEADS, GROUPS, HEAD, FEED, RANK = 64, 8, 4, 8, 96, 4
SHAPE = {
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "num_key_value_heads": GROUPS,
    "intermediate_size": FEED,
}
ADAPTERS = pytest.mark.parametrize("adapter", ["LoRA", "None"], ids=["LoRA", "full"])


def run_of(folder, adapter, *, layers=2, log_every=100, count=STEPS * SAMPLES, **plan):
    model = tiny_model(folder / f"model-{layers}", "llama", num_hidden_layers=layers, **SHAPE)
    plan = {"globalBatchSize": SAMPLES, "totalSteps": STEPS, "stepsPerEpoch": STEPS} | plan
    plan |= {"maxTokensPerDevice": 60} if "maxTokensPerDevice" not in plan else {}
    return one_rank(
        folder / f"run-{layers}",
        model,
        token_cache(count),
        plan,
        adapter={"type": adapter},
        training={"gradientCheckpointing": "Never"},
        tracking={"logEverySteps": log_every},
    )


READS = {
    "item": lambda one: one.sum().item(),
    "a truth value": lambda one: bool(one.sum() > 0),
    "a float": lambda one: float(one.sum()),
    "tolist": torch.Tensor.tolist,
    "a copy to the host": torch.Tensor.cpu,
    "to the host by name": lambda one: one.to("cpu"),
    "numpy": lambda one: one.numpy(),
    "nonzero": torch.nonzero,
    "where with one argument": lambda one: torch.where(one > 0),
    "indexing by flags": lambda one: one[one > 0],
    "masked_select": lambda one: one.masked_select(one > 0),
    "assignment by flags": lambda one: one.__setitem__(one > 0, torch.ones(3)),
    "unique": torch.unique,
    "equal": lambda one: torch.equal(one, one.clone()),
    "a comparison in Python": lambda one: 1.0 in one,
}


@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
def test_the_counter_sees_a_read(read):
    with host_reads() as reads:
        read(torch.arange(4.0))
    assert reads.total() > 0


def test_the_counter_lets_work_on_the_device_pass():
    one = torch.arange(4.0)
    with host_reads() as reads:
        moved = one.to(torch.device("cpu", 0), non_blocking=True)
        torch.where(moved > 0, moved, 0.0).index_select(0, torch.tensor([1, 2])).sum()
    assert not reads


@ADAPTERS
def test_no_step_makes_the_host_read_a_value(tmp_path, adapter):
    run = run_of(tmp_path, adapter)
    run.engine.device = torch.device("cpu", 0)
    with host_reads() as reads:
        Loop(run).take_steps()
    # Rings read losses and norms late, and only what an event says has arrived.
    late = {place for place in reads if place.startswith("ring.")}
    assert set(reads) - late == set()
    assert sum(reads[place] for place in late) <= 2 * STEPS


@pytest.mark.parametrize(
    ("log_every", "reports"), [(100, 0), (2, 1)], ids=["no report due", "a report per two steps"]
)
def test_two_ranks_talk_only_to_reduce_gradients_and_to_report(
    tmp_path, monkeypatch, log_every, reports
):
    """Counted in every rank to the end of the last update."""
    loss_sum, clip_and_step = Engine.loss_sum, Engine.clip_and_step
    counting = operations("c10d::")
    state = {"steps": 0, "counts": None}

    def first(self, batch, *, last):
        if state["steps"] == UNCOUNTED and state["counts"] is None:
            state["counts"] = counting.__enter__()
        return loss_sum(self, batch, last=last)

    def ending(self, *arguments):
        norm = clip_and_step(self, *arguments)
        state["steps"] += 1
        if state["steps"] == STEPS:
            counting.__exit__(None, None, None)
            path = tmp_path / f"counts-{os.environ['RANK']}.json"
            path.write_text(json.dumps(state["counts"]))
        return norm

    monkeypatch.setattr(Engine, "loss_sum", first)
    monkeypatch.setattr(Engine, "clip_and_step", ending)
    ground = TrainingGround(tmp_path / "ground", train=STEPS * 8)
    config = ground.config(
        ranks=2,
        plan={"totalSteps": STEPS, "stepsPerEpoch": STEPS},
        evaluation={"atStart": False, "generateSamples": 0, "everyEpochs": 0.0},
        tracking={"logEverySteps": log_every},
        checkpoint={"everySeconds": 0},
        training={"probeMemory": False},
    )
    ground.forked(config).completed()
    for rank in range(2):
        counts = json.loads((tmp_path / f"counts-{rank}.json").read_text())
        assert counts == {"c10d::allreduce_": STEPS - UNCOUNTED + reports}


def step_of(run, number=0):
    """Return a function that computes the gradient of one step, and the step."""
    work = rank_step(run.train, run.plan, number, 0, 1)

    def gradient():
        for batch in work.batches:
            run.engine.backward(run.engine.loss_sum(batch, last=batch is work.batches[-1]))

    return gradient, work


def causal_forward(query, key, value, *_, **__):
    """Return the FLOPs that causal attention of these shapes needs: half of two products."""
    batch, heads, length, size = query
    return 2 * batch * heads * length * length * size


def causal_backward(_grad, query, key, value, *_, **__):
    """Return twice the forward's; computing the scores again is no need of the model."""
    return 2 * causal_forward(query, key, value)


def product_in_place(_total, left, right, *_, **__):
    """Return the FLOPs of a product that is added in place; torch counts only the others."""
    return 2 * left[0] * left[1] * right[1]


COUNTED = {
    torch.ops.aten.addmm_: product_in_place,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: causal_forward,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: causal_backward,
}


def needed_flops(step, lengths, layers, adapter):
    """Return what the model needs for a step, forward and backward (trainer's convention).

    6 per trained weight and token, 4 per frozen one, without embeddings; the head per supervised
    row; causal attention 6 x layers x width x length². Nothing below the first adapters needs a
    gradient: their layer's query, key and value products have no backward of their input.
    """
    tokens = sum(lengths)
    query, keys = WIDTH * HEADS * HEAD, WIDTH * GROUPS * HEAD
    layer = 2 * query + 2 * keys + 3 * WIDTH * FEED
    head = 61 * WIDTH * step.supervised
    attention = 6 * layers * HEADS * HEAD * sum(length**2 for length in lengths)
    if adapter == "None":
        return 6 * tokens * layers * layer + 6 * head + attention
    low = RANK * (2 * (WIDTH + HEADS * HEAD) + 2 * (WIDTH + GROUPS * HEAD) + 3 * (WIDTH + FEED))
    unneeded = 2 * (query + 2 * keys) + 3 * 2 * RANK * WIDTH
    return tokens * (layers * (4 * layer + 6 * low) - unneeded) + 4 * head + attention


@ADAPTERS
def test_a_step_takes_the_flops_that_its_real_tokens_need(tmp_path, adapter):
    run = run_of(tmp_path, adapter)
    gradient, work = step_of(run)
    gradient()
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
        gradient()
    lengths = [int(token_cache(STEPS * SAMPLES).lengths[i]) for i in work.step.samples]
    needed = needed_flops(work.step, lengths, 2, adapter)
    assert counter.get_total_flops() == pytest.approx(needed, rel=0.03)


def saved_by_layer(folder, adapter, dtype, tokens):
    """Return the bytes that one more layer saves for a sample of so many tokens."""
    kept = {}
    for layers in (2, 3):
        run = run_of(folder, adapter, layers=layers, computeDtype=dtype)
        whole = token_cache(STEPS * SAMPLES)
        cache = replace(whole, offsets=np.array([0, tokens, len(whole.tokens)], np.int64))
        with saved_bytes(run.engine.task) as found:
            run.engine.loss_sum(micro_batch(cache, [0], ONE_EACH), last=True)
        kept[layers] = sum(found)
    return kept[3] - kept[2]


@ADAPTERS
@pytest.mark.parametrize("dtype", ["Float32", "BFloat16"])
def test_a_layer_saves_what_the_memory_formula_says_for_a_token(tmp_path, adapter, dtype):
    more, fewer = (saved_by_layer(tmp_path, adapter, dtype, tokens) for tokens in (96, 32))
    units = 4 * WIDTH + 2 * HEADS * HEAD + 2 * GROUPS * HEAD + 3 * FEED
    units += 7 * RANK if adapter == "LoRA" else 0
    size = 4 if dtype == "Float32" else 2
    if size == 2 and adapter == "None":
        # Float32 masters under autocast keep the residual stream, which both norms save, in 32
        # bits, and each of the five products behind the norms casts and saves an input of its own.
        units += 5 * WIDTH
    assert (more - fewer) / 64 <= 1.1 * size * units


@ADAPTERS
def test_a_layer_takes_at_most_300_operations_with_one_segment(tmp_path, adapter):
    taken = {}
    for layers in (2, 3):
        run = run_of(tmp_path, adapter, layers=layers, count=STEPS, globalBatchSize=1)
        gradient, _ = step_of(run)
        gradient()
        with operations() as seen:
            gradient()
        taken[layers] = Counter(seen).total()
    assert taken[3] - taken[2] <= 300
