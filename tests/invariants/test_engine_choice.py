"""Each strategy and each of its settings reaches the engine; a peer that is silent ends a rank."""

from __future__ import annotations

import time
from datetime import timedelta
from types import SimpleNamespace

import peft  # noqa: F401 - loaded once, then inherited by every forked rank
import pytest
import torch
from torch import nn

from finetune_api.finetune_experiment import ExperimentSpec
from finetune_trainer.distributed import Signs, join_world, peers_watched
from finetune_trainer.engine import Engine
from finetune_trainer.engine_choice import engine_for
from finetune_trainer.engine_fsdp import ShardedEngine, decoder_layers
from finetune_trainer.errors import PeerLostError
from strategy_ground import ranks, take_steps, toy_parts
from toy_llama import toy_llama_folder

pytestmark = pytest.mark.filterwarnings("ignore")


def config(strategy, *, reshard=True, **blocks):
    values = {
        "model": {"huggingFace": {"repository": "tiny/model"}},
        "dataset": {"name": "chats"},
        "storage": {"volumeClaim": {"claimName": "results"}},
    }
    spec = ExperimentSpec.model_validate(values | blocks, strict=False)
    resolved = SimpleNamespace(strategy=strategy, reshard_after_forward=reshard)
    return SimpleNamespace(spec=spec, plan=resolved)


def test_fsdp_settings_reach_every_layer(tmp_path):
    base = toy_llama_folder(tmp_path / "toy")

    def work(world):
        for reshard, group in ((True, 2), (False, 4)):
            settings = config("FSDP", reshard=reshard, fsdp={"shardGroupSize": group})
            engine = engine_for(settings, *toy_parts(base, full=True), world, torch.float32)
            assert isinstance(engine, ShardedEngine)
            assert engine.writers == group
            layers = decoder_layers(engine.task.model)
            assert len(layers) == 2
            for layer in layers:
                held = layer._get_fsdp_state()._fsdp_param_group
                assert (held.post_forward_mesh_info is not None) == reshard

    ranks(tmp_path, 4, work)


def test_offloaded_shards_lie_on_the_cpu_and_are_pinned_only_beside_a_gpu(tmp_path):
    base = toy_llama_folder(tmp_path / "toy")

    def work(world):
        settings = config("FSDP", fsdp={"offload": "CPU"})
        engine = engine_for(settings, *toy_parts(base, full=True), world, torch.float32)
        policy = decoder_layers(engine.task.model)[0]._get_fsdp_state()._fsdp_param_group
        assert policy.offload_policy.pin_memory == torch.cuda.is_available()
        assert all(piece.tensor.device.type == "cpu" for piece in engine.weights())

    ranks(tmp_path, 1, work)


class WithoutHead(nn.Module):
    """Leaves a trained parameter out of every forward."""

    def __init__(self, task):
        super().__init__()
        self.model, self.left_out = task.model, nn.Parameter(torch.ones(3))
        self.model.left_out = self.left_out
        self.__dict__["task"] = task

    def forward(self, batch):
        return self.__dict__["task"](batch)


@pytest.mark.parametrize("tolerated", [True, False], ids=["tolerated", "not tolerated"])
def test_unused_parameters_are_tolerated_only_where_asked(tmp_path, tolerated):
    base = toy_llama_folder(tmp_path / "toy")

    def work(world):
        task, update = toy_parts(base, full=False)
        settings = config("DDP", compute={"findUnusedParameters": tolerated})
        engine = engine_for(settings, WithoutHead(task), update, world, torch.float32)
        if tolerated:
            take_steps(engine, 0, 2)
            return
        with pytest.raises(RuntimeError, match="find_unused_parameters"):
            take_steps(engine, 0, 2)

    ranks(tmp_path, 2, work)


@pytest.mark.parametrize("strategy", ["DDP", "FSDP"])
def test_a_rank_whose_peer_is_silent_ends_as_having_lost_it(tmp_path, strategy):
    """`collectiveTimeoutSeconds` holds in groups that are made of some ranks, too."""
    base = toy_llama_folder(tmp_path / "toy")

    def work(world):
        # A single shard group of both ranks, and one per rank beside it.
        engine = engine_for(config(strategy), *toy_parts(base, full=True), world, torch.float32)
        if world.rank:
            while not world.store.check(["told"]):
                time.sleep(0.05)
            return
        with pytest.raises(PeerLostError), peers_watched():
            take_steps(engine, 0, 1)
        world.store.set("told", "1")

    ranks(tmp_path, 2, work, timeout_seconds=2)


def test_one_process_needs_no_group():
    world = join_world("alone", Signs(), deadline_seconds=1, timeout_seconds=1)
    assert (world.size, world.store, world.timeout) == (1, None, timedelta(minutes=10))


def test_replicated_is_the_engine_of_everything_else(tmp_path):
    base = toy_llama_folder(tmp_path / "toy")
    world = join_world("alone", Signs(), deadline_seconds=1, timeout_seconds=1)
    engine = engine_for(config("SingleProcess"), *toy_parts(base, full=True), world, torch.float32)
    assert type(engine) is Engine
