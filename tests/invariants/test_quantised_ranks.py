"""Adapters on a quantised base train the same on one process, on replicas and on shards."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load

import finetune_trainer.run  # noqa: F401 - loaded once, then inherited by every forked rank
from training_ground import TrainingGround


def trained(ground, attempt, *, ranks, strategy):
    plan = {"quantization": "NF4", "strategy": strategy, "totalSteps": 4}
    config = ground.config(attempt, ranks=ranks, plan=plan, evaluation={"generateSamples": 0})
    config["identity"]["uid"] = strategy
    config["grain"] = 1
    outcome = ground.forked(config, world=ranks).completed()
    found = {}
    folder = ground.file(outcome.result.uri, "manifest.json").parent
    for path in sorted(folder.glob("trainable-*.safetensors")):
        for name, part in load(path.read_bytes()).items():
            found.setdefault(name, []).append(part)
    return {name: torch.cat(parts) for name, parts in found.items()}


@pytest.mark.parametrize("strategy", ["DDP", "FSDP"])
def test_a_quantised_base_trains_the_same_adapter_on_two_ranks(tmp_path, strategy):
    ground = TrainingGround(tmp_path)
    alone = trained(ground, 1, ranks=1, strategy="SingleProcess")
    together = trained(ground, 2, ranks=2, strategy=strategy)
    assert alone.keys() == together.keys()
    for name, one in alone.items():
        assert one.any()
        torch.testing.assert_close(together[name], one, rtol=1e-4, atol=1e-5)
