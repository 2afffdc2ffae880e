"""A whole run under a sharded strategy: it resumes elsewhere, and its steps say nothing extra."""

from __future__ import annotations

import peft  # noqa: F401 - loaded once, then inherited by every forked rank
import pytest
import torch
from torch import distributed as dist

import finetune_trainer.run  # noqa: F401
from finetune_trainer.engine_fsdp import ShardedEngine, Sharding
from finetune_trainer.merge import SafetensorsFolder
from strategy_ground import ranks, take_steps, toy_parts
from toy_llama import toy_llama_folder
from training_ground import TrainingGround

pytestmark = pytest.mark.filterwarnings("ignore")

STEPS = 6
sweep = pytest.mark.sweep


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")


def settings(strategy, **blocks):
    return {
        "plan": {"totalSteps": STEPS, "stepsPerEpoch": 3, "strategy": strategy},
        "compute": {"strategy": strategy},
        # With the usual 1e-8, Adam divides gradients that are nothing but rounding by themselves.
        "training": {"adamEpsilon": 1e-3},
        "evaluation": {"atStart": False, "generateSamples": 0, "everyEpochs": 0.0},
        "checkpoint": {"everySteps": 1, "keepLast": 9},
    } | blocks


def whole_weights(ground, outcome):
    folder = SafetensorsFolder(ground.file(outcome.result.uri, ""))
    return {name: folder[name] for name in folder}


MOVES = {
    "FSDP on 2 ranks to DDP on 3": ("FSDP", 2, "DDP", 3),
    "DDP on 3 ranks to FSDP on 2": ("DDP", 3, "FSDP", 2),
    "ZeRO-2 on 2 ranks to one process": ("ZeRO2", 2, "DDP", 1),
}


@pytest.mark.parametrize(("first", "size", "second", "other"), MOVES.values(), ids=MOVES.keys())
def test_a_killed_run_goes_on_at_another_world_and_strategy(tmp_path, first, size, second, other):
    alone = TrainingGround(tmp_path / "alone", train=20)
    config = alone.config(**settings("DDP"))
    expected = whole_weights(alone, alone.forked(config | {"grain": size}).completed())
    ground = TrainingGround(tmp_path / "moved", train=20)
    begun = ground.config(1, ranks=size, **settings(first))
    ground.forked(begun, die={size - 1: 3}).outcomes()
    rest = ground.config(2, ranks=other, **settings(second)) | {"grain": size}
    found = whole_weights(ground, ground.forked(rest).completed())
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name] - tensor).norm() <= 1e-6 * tensor.norm(), name


@pytest.mark.parametrize("strategy", ["FSDP", "ZeRO2", pytest.param("ZeRO3", marks=sweep)])
def test_a_sharded_run_evaluates_generates_and_learns(tmp_path, strategy):
    ground = TrainingGround(tmp_path, train=20)
    blocks = {"evaluation": {"atStart": True, "generateSamples": 2}}
    outcome = ground.forked(ground.config(ranks=2, **settings(strategy, **blocks))).completed()
    before, after = (
        next(one.value for one in outcome.training.metrics if (one.name, one.step) == ("loss", at))
        for at in (0, outcome.result.step)
    )
    assert after < before


def test_four_bit_bases_are_sharded_and_resume_bit_for_bit(tmp_path):
    blocks = {"model": {"quantization": "NF4"}}
    found = []
    for name, die in (("whole", None), ("killed", {1: 3})):
        ground = TrainingGround(tmp_path / name, train=20)
        options = settings("FSDP", **blocks)
        options["plan"] = options["plan"] | {"quantization": "NF4"}
        if die:
            ground.forked(ground.config(1, ranks=2, **options), die=die).outcomes()
        config = ground.config(2, ranks=2, **options)
        found.append(ground.weights(ground.forked(config).completed()))
    assert found[0] == found[1]


class Collectives(dict):
    """Counts calls of torch.distributed by name."""

    def __enter__(self):
        self._kept = {}
        for name in ("all_reduce", "broadcast", "all_gather", "barrier", "all_gather_object"):
            self._kept[name] = getattr(dist, name)
            setattr(dist, name, self._counted(name))
        return self

    def __exit__(self, *_):
        for name, function in self._kept.items():
            setattr(dist, name, function)

    def _counted(self, name):
        def call(*arguments, **options):
            self[name] = self.get(name, 0) + 1
            return self._kept[name](*arguments, **options)

        return call


def test_a_step_of_fsdp_adds_one_sum_for_the_norm_and_nothing_else(tmp_path):
    base = toy_llama_folder(tmp_path / "toy")

    def work(world):
        task, update = toy_parts(base, full=False)
        sharding = Sharding(world.size, accumulate_whole=True)
        engine = ShardedEngine(task, update, world, torch.float32, sharding)
        take_steps(engine, 0, 1)
        with Collectives() as counted:
            take_steps(engine, 1, 4)
        assert counted == {"all_reduce": 3}

    ranks(tmp_path, 2, work)
