"""Whole attempts with bad updates, early ends, chosen results: what is kept, how they end."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import finetune_trainer.run  # noqa: F401 - loaded once, then inherited by every forked rank
from finetune_trainer import progress
from finetune_trainer.engine import Engine
from finetune_trainer.tensor_file import read_tensors
from training_ground import TrainingGround

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

SPEC: dict[str, Any] = {
    "plan": {"totalSteps": 6, "stepsPerEpoch": 3, "warmupSteps": 0},
    "evaluation": {"atStart": False, "generateSamples": 0, "everyEpochs": 0.0},
    "checkpoint": {"everySteps": 3, "keepLast": 9},
    "tracking": {"logEverySteps": 1},
    "training": {"probeMemory": False},
}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def ground(tmp_path):
    return TrainingGround(tmp_path, train=20)


def spoil(monkeypatch, step: int, times: int) -> None:
    """Make the loss of a step, counted from 1, not finite when it is taken the first `times`."""
    loss_sum, seen = Engine.loss_sum, []

    def spoiled(self, batch, *, last):
        loss = loss_sum(self, batch, last=last)
        if batch.step + 1 != step or len(seen) == times:
            return loss
        seen.extend([step] if last else [])
        return loss * float("nan")

    monkeypatch.setattr(Engine, "loss_sum", spoiled)


def outcomes(ground, ranks=1, **changes):
    spec = {name: SPEC.get(name, {}) | changes.get(name, {}) for name in {*SPEC, *changes}}
    return ground.forked(ground.config(ranks=ranks, **spec)).outcomes()


def record_of(ground, outcome):
    return json.loads(ground.file(outcome.checkpoint.uri, "state.json").read_bytes())["record"]


def finite(ground, outcome):
    folder = ground.file(outcome.checkpoint.uri, "")
    tensors = [read_tensors(one.read_bytes()) for one in folder.glob("*.safetensors")]
    return all(bool(one.isfinite().all()) for part in tensors for one in part.values())


def test_fail_ends_the_run_and_no_checkpoint_holds_the_bad_update(ground, monkeypatch):
    spoil(monkeypatch, step=4, times=1)
    (ended,) = outcomes(ground)
    assert (ended.failure_class, ended.reason) == ("NotFinite", "NonFiniteLoss")
    assert "step 4" in ended.message
    assert ended.checkpoint.step == 3
    assert finite(ground, ended)


@pytest.mark.parametrize("step", [1, 4], ids="at step {}".format)
def test_skip_leaves_the_update_out_and_counts_it(ground, monkeypatch, step):
    spoil(monkeypatch, step=step, times=1)
    monkeypatch.setattr(progress, "PUBLISH_SECONDS", 0.0)
    (ended,) = outcomes(ground, training={"nonFinitePolicy": "Skip"})
    assert ended.failure_class == "Completed"
    record = record_of(ground, ended)
    assert (record["skipped"], record["rollbacks"]) == (1, 0)
    assert [int(point[0]) for point in record["history"]] == [n for n in range(1, 7) if n != step]
    assert finite(ground, ended)


def test_rollback_goes_on_from_the_last_checkpoint_at_a_lower_rate_on_all_ranks(
    ground, monkeypatch
):
    spoil(monkeypatch, step=4, times=1)
    ended = outcomes(
        ground, ranks=2, training={"nonFinitePolicy": "Rollback", "scheduler": "Constant"}
    )
    assert [one.failure_class for one in ended] == ["Completed", "Completed"], ended
    record = record_of(ground, ended[0])
    assert record["rollbacks"] == 1
    rates = {int(point[0]): point[2] for point in record["history"]}
    assert rates == pytest.approx({1: 0.01, 2: 0.01, 3: 0.01, 4: 0.005, 5: 0.005, 6: 0.005})


def test_a_step_that_is_never_finite_ends_after_two_rollbacks(ground, monkeypatch):
    spoil(monkeypatch, step=4, times=9)
    (ended,) = outcomes(ground, training={"nonFinitePolicy": "Rollback"})
    assert ended.failure_class == "NotFinite"
    assert "after 2 rollbacks" in ended.message


def test_a_rollback_without_a_checkpoint_ends_the_run(ground, monkeypatch):
    spoil(monkeypatch, step=1, times=1)
    (ended,) = outcomes(ground, training={"nonFinitePolicy": "Rollback"})
    assert ended.failure_class == "NotFinite"
    assert "no checkpoint to go back to" in ended.message


STALE = {
    "plan": {"learningRate": 0.0},
    "evaluation": {"everySteps": 1, "earlyStoppingPatience": 2},
}


def test_a_run_without_improvement_ends_early_and_is_complete(ground):
    (ended,) = outcomes(ground, **STALE)
    assert (ended.failure_class, ended.reason) == ("Completed", "EarlyStopped")
    assert (ended.step, ended.checkpoint.step, ended.result.step) == (3, 3, 1)


def test_the_patience_survives_a_restart(ground):
    spec = {name: SPEC.get(name, {}) | STALE.get(name, {}) for name in {*SPEC, *STALE}}
    (killed,) = ground.forked(ground.config(1, **spec), die={0: 3}).outcomes()
    assert killed is None
    (ended,) = ground.forked(ground.config(2, **spec)).outcomes()
    assert (ended.reason, ended.step) == ("EarlyStopped", 3)


def test_policy_none_leaves_the_last_weights_and_nothing_else(ground):
    (ended,) = outcomes(
        ground,
        checkpoint={"policy": "None", "everySteps": 0, "everySeconds": 0},
        evaluation={"everySteps": 2},
    )
    manifests = list(ground.folder.glob("claims/results/**/step-*/manifest.json"))
    assert len(manifests) == 1
    assert (ended.result.step, ended.training.checkpoint_choice) == (6, "Last")


def test_every_evaluated_checkpoint_is_kept_when_asked(ground):
    (ended,) = outcomes(
        ground,
        checkpoint={"keepEvaluated": True, "keepLast": 1, "everySteps": 1},
        evaluation={"everySteps": 2},
    )
    kept = {int(one.parent.name.split("-")[1]) for one in _manifests(ground)}
    assert ended.failure_class == "Completed"
    assert kept == {2, 3, 4, 6} - {3}


def test_the_answers_of_the_report_are_those_of_the_result(tmp_path):
    """At a rate so high, losses soon grow; the best step is trained up to once more."""

    def answered(name, steps, result):
        (ended,) = outcomes(
            ground := TrainingGround(tmp_path / name, train=20),
            plan={"learningRate": 1.0, "totalSteps": steps},
            training={"scheduler": "Constant"},
            evaluation={"everySteps": 1, "generateSamples": 4},
            generation={"maxNewTokens": 6},
            checkpoint={"result": result},
        )
        (report,) = ground.folder.glob("claims/results/**/report.json")
        answers = [one["tuned"] for one in json.loads(report.read_bytes())["samples"]]
        return ended.result.step, answers

    step, best = answered("best", 4, "Best")
    assert step < 4
    assert answered("again", step, "Last") == (step, best)
    assert answered("last", 4, "Last")[1] != best


def _manifests(ground):
    return ground.folder.glob("claims/results/**/checkpoints/**/manifest.json")
