"""The test split at the end of a training: the result's weights, its own label, no say."""

from __future__ import annotations

import json

import pytest

import finetune_trainer.run  # noqa: F401 - loaded once, then inherited by every forked rank
from finetune_trainer.evaluate import evaluate
from finetune_trainer.tensor_file import read_tensors
from finetune_trainer.token_cache import open_cache
from toy_task import toy_engine
from training_ground import TrainingGround

EVALUATION = {
    "atStart": False,
    "generateSamples": 0,
    "everySteps": 1,
    "metrics": ["Loss", "TokenAccuracy"],
    "objective": "TokenAccuracy",
}
"""Equal accuracies make the earliest the best, so that the result is not the last step."""


def trained(ground, *, attempt=1, ranks=1, **plan):
    """Train all weights, two epochs; return the outcome."""
    checkpoint = {"keepBest": 1, "everySeconds": 0}
    blocks = {"evaluation": EVALUATION, "adapter": {"type": "None"}, "checkpoint": checkpoint}
    plan = {"learningRate": 1e-4, "rank": None, "alpha": None} | plan
    return ground.forked(ground.config(attempt, ranks=ranks, plan=plan, **blocks)).completed()


def of_split(outcome, split):
    return {one.name: one.value for one in outcome.training.metrics if one.split == split}


def test_the_test_split_is_evaluated_with_the_weights_of_the_result(tmp_path):
    ground = TrainingGround(tmp_path, test=6)
    outcome = trained(ground)
    assert 0 < outcome.result.step < outcome.step
    assert {one.step for one in outcome.training.metrics} == {outcome.result.step}
    engine = toy_engine(tmp_path / "again")
    engine.task.model.load_state_dict(read_tensors(ground.weights(outcome)), strict=False)
    cache = open_cache(tmp_path / "scratch-1/ranks-forked/prepared/tokens/test")
    names = ("loss", "token_accuracy")
    by_hand = evaluate(engine, cache, range(6), budget=48, turn=lambda: None, names=names)
    assert of_split(outcome, "test") == pytest.approx(by_hand.values, rel=1e-6)
    assert of_split(outcome, "test") != of_split(outcome, "validation")


def test_record_and_report_name_the_split(tmp_path):
    ground = TrainingGround(tmp_path, test=6)
    outcome = trained(ground, ranks=2)
    place = f"evaluations/attempt-1.0/step-{outcome.result.step}"
    for split, name in (("validation", "metrics.json"), ("test", "metrics-test.json")):
        record = json.loads(ground.store.read(f"{place}/{name}"))
        assert record["split"] == split
        assert record["loss"] == of_split(outcome, split)["loss"]
    report = json.loads(ground.store.read("report-1.0/report.json"))
    assert report["test"] == of_split(outcome, "test")
    assert report["final"] == of_split(outcome, "validation")
    assert b"Test split" in ground.store.read("report-1.0/report.html")


def test_validation_records_that_were_trained_on_are_marked_and_decide_nothing(tmp_path):
    ground = TrainingGround(tmp_path, test=6)
    outcome = trained(ground, validationSeen=True)
    assert outcome.best is None
    assert outcome.training.checkpoint_choice == "Last"
    seen = {one.split: one.seen_in_training for one in outcome.training.metrics}
    assert seen == {"validation": True, "test": False}


def test_without_a_test_split_only_validation_is_reported(tmp_path):
    outcome = trained(TrainingGround(tmp_path))
    assert {one.split for one in outcome.training.metrics} == {"validation"}
