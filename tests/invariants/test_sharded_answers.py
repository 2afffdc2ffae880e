"""Sample answers of a training are the same whatever strategy holds the weights."""

from __future__ import annotations

import json

import pytest

import finetune_trainer.run  # noqa: F401 - loaded once, then inherited by every forked rank
from training_ground import TrainingGround


def answers(folder, strategy, ranks):
    """Train two steps; return what was answered before and after, by what ended."""
    ground = TrainingGround(folder)
    blocks = {
        "compute": {"strategy": "Auto" if ranks == 1 else strategy, "processesPerNode": ranks},
        "evaluation": {"atStart": False, "generateSamples": 3, "everyEpochs": 0.0},
        "generation": {"maxNewTokens": 11},
    }
    blocks |= {"deepspeed": {}} if strategy.startswith("ZeRO") else {}
    plan = {"strategy": strategy, "totalSteps": 2}
    ground.forked(ground.config(ranks=ranks, plan=plan, **blocks)).completed()
    report = json.loads(ground.store.read("report-1.0/report.json"))
    return [(one["base"], one["tuned"], one["finish"]) for one in report["samples"]]


@pytest.mark.parametrize(
    "strategy",
    ["FSDP", pytest.param("ZeRO3", marks=pytest.mark.sweep)],
)
def test_answers_before_and_after_training_do_not_depend_on_the_strategy(tmp_path, strategy):
    alone = answers(tmp_path / "alone", "SingleProcess", 1)
    # Three prompts for two ranks: one rank goes on without a prompt of its own.
    assert answers(tmp_path / "shared", strategy, 2) == alone
    assert len(alone) == 3
