"""Rows of new tokens beside an adapter get the same updates under every strategy."""

from __future__ import annotations

import os
from functools import partial

import pytest
import torch

from finetune_api.model_settings import Adapter
from finetune_api.strategy_settings import DeepSpeed
from finetune_trainer.adapter import Trained, trainable_model
from finetune_trainer.engine import Engine
from finetune_trainer.engine_fsdp import ShardedEngine, Sharding
from finetune_trainer.guarded_update import GuardedUpdate
from finetune_trainer.model import load_base
from finetune_trainer.optim import optimizer_recipe
from finetune_trainer.problems.causal_lm import CausalLanguageModelling
from finetune_trainer.vocabulary import NewRow
from strategy_ground import (
    PEAK,
    TRAINING,
    largest_difference,
    leave_pieces,
    ranks,
    read_pieces,
    take_steps,
    together,
)
from toy_llama import toy_llama_folder

pytestmark = pytest.mark.filterwarnings("ignore")
# Rows of ids that the samples hold: with a padded vocabulary new tokens may take such ones too.
ROWS = [NewRow(5, [4, 6]), NewRow(7, [9])]


class CutWhole:
    """A spec of which nothing but its deepspeed block is read: even small weights are cut."""

    deepspeed = DeepSpeed(stage3_param_persistence_threshold=0)


def replicated(task, update, world):
    return Engine(task, update, world, torch.float32)


def fsdp(task, update, world):
    sharding = Sharding(group_size=world.size)
    return ShardedEngine(task, update, world, torch.float32, sharding)


def zero_3(task, update, world):
    from finetune_trainer.deepspeed_config import deepspeed_config
    from finetune_trainer.engine_deepspeed import ZeroEngine

    config = deepspeed_config(CutWhole(), stage=3, half=False, pinned=False)
    return ZeroEngine(task, update, world, torch.float32, config)


def guarded(recipe, named):
    return GuardedUpdate(recipe(named), named[0][1].device, keep_flag=True)


def state_of(folder, build, size, *, tied):
    base = toy_llama_folder(folder / "toy", tied=tied)

    def work(world):
        settings = Trained(Adapter(), rank=4, alpha=8.0, seed=5, rows=ROWS)
        model = trainable_model(load_base(base, torch.float32), settings)
        recipe = optimizer_recipe(model, TRAINING, PEAK)
        engine = build(CausalLanguageModelling(model, 5), partial(guarded, recipe), world)
        take_steps(engine)
        leave_pieces(folder, engine)

    ranks(folder, size, work)
    return together(read_pieces(folder))


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize(
    "build",
    [pytest.param(fsdp, marks=pytest.mark.sweep, id="FSDP"), pytest.param(zero_3, id="ZeRO-3")],
)
def test_rows_of_new_tokens_are_updated_alike(tmp_path, build, tied):
    os.environ["DS_ACCELERATOR"] = "cpu"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    expected = state_of(tmp_path / "one", replicated, 1, tied=tied)
    found = state_of(tmp_path / "two", build, 2, tied=tied)
    assert sum(name.endswith("trainable_tokens_delta") for name in expected) == 2 - tied
    assert largest_difference(expected, found) <= 1e-6
