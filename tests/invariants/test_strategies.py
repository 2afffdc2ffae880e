"""The update is the same on every strategy and world, and its state loads on every other one."""

from __future__ import annotations

import os
from functools import partial

import pytest
import torch

from finetune_api.strategy_settings import DeepSpeed, Offload
from finetune_trainer.data import micro_batch
from finetune_trainer.engine import Engine
from finetune_trainer.engine_fsdp import ShardedEngine, Sharding
from finetune_trainer.pieces import whole
from strategy_ground import (
    CACHE,
    largest_difference,
    leave_pieces,
    ranks,
    read_pieces,
    state_of,
    take_steps,
    together,
    toy_parts,
)
from toy_llama import toy_llama_folder

pytestmark = pytest.mark.filterwarnings("ignore")
TOLERANCE = 1e-6
sweep = pytest.mark.sweep


def replicated(task, update, world):
    return Engine(task, update, world, torch.float32)


def fsdp(task, update, world, **settings):
    sharding = Sharding(**{"group_size": world.size} | settings)
    return ShardedEngine(task, update, world, torch.float32, sharding)


class OnlyDeepSpeed:
    """A spec of which nothing but its deepspeed block is read."""

    def __init__(self, **settings):
        self.deepspeed = DeepSpeed(**settings)


def zero(task, update, world, *, stage, dtype=torch.float32, **settings):
    from finetune_trainer.deepspeed_config import deepspeed_config
    from finetune_trainer.engine_deepspeed import ZeroEngine

    half = dtype is torch.bfloat16
    config = deepspeed_config(OnlyDeepSpeed(**settings), stage=stage, half=half, pinned=False)
    return ZeroEngine(task, update, world, dtype, config)


CPU = Offload.CPU
ENGINES = {
    "DDP, 2 ranks": (replicated, 2),
    "DDP, 3 ranks": (replicated, 3),
    "FSDP on one rank with offload": (partial(fsdp, offload=True), 1),
    "FSDP, 2 ranks": (fsdp, 2),
    "FSDP, 3 ranks, never resharded": (partial(fsdp, reshard=False), 3),
    "FSDP, 3 ranks, gradients reduced once": (partial(fsdp, accumulate_whole=True), 3),
    "FSDP, 2 ranks, offload": (partial(fsdp, offload=True), 2),
    "FSDP, 4 ranks in groups of 2": (partial(fsdp, group_size=2), 4),
    "ZeRO-2, 2 ranks": (partial(zero, stage=2), 2),
    "ZeRO-2, 3 ranks, offload": (partial(zero, stage=2, offload_optimizer=CPU), 3),
    "ZeRO-2 on one rank with offload": (partial(zero, stage=2, offload_optimizer=CPU), 1),
    "ZeRO-3, 2 ranks": (partial(zero, stage=3), 2),
    "ZeRO-3, 3 ranks, all offloaded": (
        partial(zero, stage=3, offload_optimizer=CPU, offload_parameters=CPU),
        3,
    ),
}


def cases(named, often):
    """Return pytest's parameters; all but those that `often` names run with the sweep alone."""
    return [
        pytest.param(*values, id=name, marks=() if name in often else sweep)
        for name, values in named.items()
    ]


@pytest.fixture(scope="module", autouse=True)
def _deepspeed_is_imported_once_for_all_forked_ranks():
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed  # noqa: F401


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """State of one process after three steps, by whether everything is trained."""
    return {
        full: state_of(tmp_path_factory.mktemp("one"), replicated, 1, full=full)
        for full in (True, False)
    }


OFTEN = (
    "DDP, 3 ranks",
    "FSDP, 3 ranks, gradients reduced once",
    "FSDP, 2 ranks, offload",
    "FSDP, 4 ranks in groups of 2",
    "ZeRO-2, 2 ranks",
)


@pytest.mark.parametrize(("build", "size"), cases(ENGINES, OFTEN))
@pytest.mark.parametrize("full", [True, False], ids=["full", "LoRA"])
def test_every_strategy_makes_the_same_update(tmp_path, expected, build, size, full):
    found = state_of(tmp_path, build, size, full=full)
    assert largest_difference(expected[full], found) <= TOLERANCE


@pytest.mark.parametrize("budget", [24, pytest.param(30, marks=sweep), 200], ids="budget {}".format)
@pytest.mark.parametrize(
    "build",
    [
        pytest.param(replicated, id="DDP"),
        pytest.param(fsdp, id="FSDP"),
        pytest.param(partial(zero, stage=2), id="ZeRO-2", marks=sweep),
    ],
)
def test_the_number_of_micro_batches_changes_no_strategys_update(tmp_path, expected, build, budget):
    found = state_of(tmp_path, build, 2, full=False, budget=budget)
    assert largest_difference(expected[False], found) <= TOLERANCE


MOVES = {
    "DDP 1 -> FSDP 3": (replicated, 1, fsdp, 3),
    "FSDP 3 -> FSDP 2": (fsdp, 3, fsdp, 2),
    "FSDP 2 -> DDP 3": (fsdp, 2, replicated, 3),
    "FSDP 2 -> ZeRO-3 3": (fsdp, 2, partial(zero, stage=3), 3),
    "ZeRO-3 3 -> ZeRO-2 2": (partial(zero, stage=3), 3, partial(zero, stage=2), 2),
    "ZeRO-2 2 -> FSDP in groups 4": (partial(zero, stage=2), 2, partial(fsdp, group_size=2), 4),
}


@pytest.mark.parametrize(
    ("first", "size", "second", "other"),
    cases(MOVES, ("DDP 1 -> FSDP 3", "FSDP 2 -> DDP 3", "ZeRO-2 2 -> FSDP in groups 4")),
)
def test_a_state_goes_on_anywhere(tmp_path, first, size, second, other):
    """Three steps here and three there are six steps anywhere."""
    expected = state_of(_folder(tmp_path, "whole"), replicated, 1, full=True, last=6)
    found = moved(tmp_path, first, size, second, other)
    assert largest_difference(expected, found) <= TOLERANCE


def moved(folder, first, size, second, other):
    """Return the state after three steps here and three there."""
    base = toy_llama_folder(folder / "toy")
    half, rest = _folder(folder, "half"), _folder(folder, "rest")

    def begin(world):
        engine = first(*toy_parts(base, full=True), world)
        take_steps(engine)
        leave_pieces(half, engine)

    def go_on(world):
        engine = second(*toy_parts(base, full=True), world)
        pieces = read_pieces(half)
        engine.load(pieces, pieces)
        take_steps(engine, 3, 6)
        leave_pieces(rest, engine)

    ranks(half, size, begin)
    ranks(rest, other, go_on)
    return together(read_pieces(rest))


SAME = {
    "DDP": (replicated, 2),
    "FSDP": (fsdp, 3),
    "ZeRO-2": (partial(zero, stage=2), 2),
    "ZeRO-3": (partial(zero, stage=3), 3),
}


@pytest.mark.parametrize(("build", "size"), cases(SAME, ("FSDP", "ZeRO-2")))
def test_at_the_same_world_a_loaded_state_goes_on_bit_for_bit(tmp_path, build, size):
    expected = state_of(_folder(tmp_path, "whole"), build, size, full=True, last=6)
    found = moved(tmp_path, build, size, build, size)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(replicated, id="DDP"),
        pytest.param(fsdp, id="FSDP"),
        pytest.param(partial(zero, stage=2), id="ZeRO-2"),
        pytest.param(partial(zero, stage=3), id="ZeRO-3", marks=sweep),
    ],
)
def test_an_update_that_is_not_finite_changes_nothing_on_any_strategy(tmp_path, build):
    base = toy_llama_folder(tmp_path / "toy")

    def work(world):
        engine = build(*toy_parts(base, full=False), world)
        take_steps(engine, 0, 1)
        before = _copies(engine)
        _poisoned_step(engine)
        after = _copies(engine)
        assert engine.diverged()
        assert all(torch.equal(after[name], one) for name, one in before.items())

    ranks(_folder(tmp_path, "ranks"), 2, work)


def _poisoned_step(engine):
    from finetune_trainer.data import rank_step
    from strategy_ground import plan

    world = engine.world
    batches = rank_step(CACHE, plan(), 1, world.rank, world.size).batches
    for batch in batches:
        loss = engine.loss_sum(batch, last=batch is batches[-1])
        engine.backward(loss * (float("nan") if world.rank == 0 else 1.0))
    engine.clip_and_step(1.0, 1.0)


def _copies(engine):
    pieces = [whole(one.name, one.tensor) for one in (*engine.weights(), *engine.moments())]
    return {piece.name: piece.tensor.clone() for piece in pieces}


def _folder(parent, name):
    path = parent / name
    path.mkdir()
    return path


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(replicated, id="DDP"),
        pytest.param(partial(fsdp, accumulate_whole=True), id="FSDP"),
        pytest.param(partial(zero, stage=2), id="ZeRO-2"),
        pytest.param(partial(zero, stage=2, dtype=torch.bfloat16), id="ZeRO-2 in bfloat16"),
        pytest.param(
            partial(zero, stage=2, offload_optimizer=CPU), id="ZeRO-2, offload", marks=sweep
        ),
        pytest.param(partial(zero, stage=3), id="ZeRO-3", marks=sweep),
    ],
)
def test_discarded_gradients_leave_no_trace(tmp_path, build):
    """As those of the memory probe before step 1."""
    base = toy_llama_folder(tmp_path / "toy")

    def work(world):
        found = []
        for probes in (False, True):
            engine = build(*toy_parts(base, full=True), world)
            if probes:
                batch = micro_batch(CACHE, range(4), 1.0)
                engine.backward(engine.loss_sum(batch, last=True))
                engine.discard()
            take_steps(engine, 0, 2)
            found.append(_copies(engine))
        assert all(torch.equal(found[1][name], one) for name, one in found[0].items())

    ranks(_folder(tmp_path, "ranks"), 2, work)
