"""All ranks take rank 0's view of what is best, and none waits for another one."""

from __future__ import annotations

import json
import os
from itertools import pairwise

import peft  # noqa: F401 - loaded once, then inherited by every forked rank
import pytest

from finetune_trainer import run
from training_ground import TrainingGround

pytestmark = pytest.mark.filterwarnings("ignore")
IMPROVEMENTS = 5


@pytest.mark.parametrize("strategy", ["FSDP", "ZeRO3"])
def test_three_ranks_agree_on_the_best_through_five_improvements(tmp_path, monkeypatch, strategy):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    if strategy == "ZeRO3":
        import deepspeed  # noqa: F401
    ending = run.completed

    def leaving_its_record(config, ended, *rest):
        record = ended.record
        seen = {
            "evaluations": record.evaluations,
            "kept": record.kept_steps(config.spec.checkpoint),
        }
        (tmp_path / f"seen-{os.environ['RANK']}.json").write_text(json.dumps(seen, default=sorted))
        return ending(config, ended, *rest)

    monkeypatch.setattr(run, "completed", leaving_its_record)
    ground = TrainingGround(tmp_path, train=24, validation=2)
    config = ground.config(
        ranks=3,
        plan={"strategy": strategy, "totalSteps": 6, "stepsPerEpoch": 3, "warmupSteps": 0},
        evaluation={"atStart": False, "generateSamples": 0, "everySteps": 1},
        checkpoint={"everySteps": 1, "keepLast": 1, "keepBest": 1, "result": "Best"},
    )
    outcome = ground.forked(config).completed()
    first, *others = (json.loads((tmp_path / f"seen-{rank}.json").read_text()) for rank in range(3))
    assert others == [first, first]
    losses = [one["loss"] for one in first["evaluations"]]
    assert sum(later < sooner for sooner, later in pairwise(losses)) >= (IMPROVEMENTS - 1)
    best = first["evaluations"][losses.index(min(losses))]
    assert outcome.result is not None
    assert outcome.result.step == int(best["step"])
