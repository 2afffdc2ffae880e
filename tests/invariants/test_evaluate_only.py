"""Mode Evaluate: the start weights on one split, the same numbers on any number of ranks."""

from __future__ import annotations

import json
import math
import shutil

import pytest

import finetune_trainer.run  # noqa: F401 - loaded once, then inherited by every forked rank
from finetune_api.run_outcome import FailureClass
from training_ground import TrainingGround

EVALUATE = {"rank": None, "alpha": None, "totalSteps": 0, "stepsPerEpoch": 0, "warmupSteps": 0}
ALL = ["Loss", "Perplexity", "SamplePerplexity", "TokenAccuracy"]


def config(ground, *, attempt=1, ranks=1, dataset=None, evaluation=None, generation=None, **plan):
    """Return the config of an evaluation."""
    asked = {"atStart": False, "generateSamples": 2, "metrics": ALL} | (evaluation or {})
    found = ground.config(
        attempt,
        ranks=ranks,
        evaluation=asked,
        dataset=dataset or {},
        generation=generation or {},
        plan=EVALUATE | plan,
    )
    found["spec"]["mode"] = "Evaluate"
    return found


def values(outcome):
    return {one.name: one.value for one in outcome.training.metrics}


def test_an_evaluation_completes_with_metrics_and_without_a_checkpoint(tmp_path):
    ground = TrainingGround(tmp_path)
    outcome = ground.forked(config(ground)).completed()
    assert set(values(outcome)) == {
        "loss",
        "perplexity_corpus",
        "perplexity_sample_mean",
        "token_accuracy",
    }
    assert values(outcome)["perplexity_corpus"] == pytest.approx(math.exp(values(outcome)["loss"]))
    assert {one.split for one in outcome.training.metrics} == {"validation"}
    assert outcome.result is None
    assert outcome.checkpoint is None
    assert not ground.store.list("checkpoints/")
    record = json.loads(ground.store.read("evaluations/attempt-1.0/step-0/metrics.json"))
    assert record["split"] == "validation"
    assert record["loss"] == values(outcome)["loss"]
    report = json.loads(ground.store.read("report-1.0/report.json"))
    assert report["final"] == values(outcome)
    assert [sorted(one) for one in report["samples"]] == [
        ["base", "finish", "prompt", "reference", "tuned"]
    ] * 2
    assert b"evaluation report" in ground.store.read("report-1.0/report.html")


def test_the_metrics_equal_the_baseline_of_a_training_on_the_same_data(tmp_path):
    ground = TrainingGround(tmp_path)
    evaluated = values(ground.forked(config(ground)).completed())
    trained = ground.config(attempt=2, evaluation={"metrics": ALL}, plan={"totalSteps": 1})
    baseline = ground.forked(trained).completed().training.metrics
    assert evaluated == pytest.approx({one.name: one.value for one in baseline if not one.step})


@pytest.mark.parametrize(
    ("ranks", "strategy", "generation"),
    [
        pytest.param(2, "DDP", {}, id="2 ranks"),
        pytest.param(3, "DDP", {"doSample": True, "temperature": 3.0}, id="3 ranks, sampled"),
        pytest.param(2, "FSDP", {"numBeams": 2}, id="2 ranks sharded, beams"),
        pytest.param(3, "FSDP", {"doSample": True}, id="3 ranks sharded, sampled"),
    ],
)
def test_ranks_and_strategy_change_no_metric_and_no_answer(tmp_path, ranks, strategy, generation):
    ground = TrainingGround(tmp_path)
    generation = {"maxNewTokens": 11} | generation
    alone = ground.forked(config(ground, generation=generation)).completed()
    asked = config(ground, attempt=2, ranks=ranks, generation=generation, strategy=strategy)
    together = ground.forked(asked).completed()
    assert values(together) == pytest.approx(values(alone), rel=1e-6)
    answers = [
        json.loads(ground.store.read(f"report-{attempt}.0/report.json"))["samples"]
        for attempt in (1, 2)
    ]
    assert answers[0] == answers[1]


def test_a_restart_begins_again_beside_what_was_written(tmp_path):
    ground = TrainingGround(tmp_path)
    first = values(ground.forked(config(ground)).completed())
    shutil.rmtree(tmp_path / "scratch-1")
    assert values(ground.forked(config(ground)).completed()) == first
    assert ground.store.list("evaluations/attempt-1.0/step-0.1/")


def test_another_split_and_fewer_rows_give_other_numbers(tmp_path):
    ground = TrainingGround(tmp_path)
    split = {"evaluateSplit": "Train"}
    every = ground.forked(config(ground, dataset=split)).completed()
    few = config(ground, attempt=2, dataset=split, evaluation={"maxRows": 5})
    few = ground.forked(few).completed()
    assert {one.split for one in every.training.metrics} == {"train"}
    assert few.training.metrics[0].rows < every.training.metrics[0].rows
    assert values(few) != values(every)


def test_the_outcome_is_small_enough_for_a_pod(tmp_path):
    ground = TrainingGround(tmp_path)
    outcome = ground.forked(config(ground)).completed()
    assert outcome.failure_class is FailureClass.COMPLETED
    assert len(outcome.encoded()) < 4096


def test_the_result_of_a_training_is_evaluated_as_that_training_evaluated_it(tmp_path):
    ground = TrainingGround(tmp_path, test=6)
    asked = {"metrics": ALL, "generateSamples": 2}
    parent = ground.forked(ground.config(evaluation=asked)).completed()
    result, own = parent.result, ("validation", "test")
    known = {split: {} for split in own}
    for one in parent.training.metrics:
        known[one.split] |= {one.name: one.value} if one.step == result.step else {}
    ancestor = {
        "experiment": "toy",
        "uid": "5f0c",
        "step": result.step,
        "uri": result.uri,
        "digest": result.digest,
        "kind": "Adapter",
        "handover": "Continue",
        "location": {"volumeClaim": {"claimName": "results"}},
    }
    base = {"volumeClaim": {"claimName": "models", "path": "toy"}}
    for attempt, split in enumerate(own, start=2):
        asked = config(ground, attempt=attempt, dataset={"evaluateSplit": split.title()})
        asked["start"] = {"base": base, "ancestors": [ancestor]}
        code, outcome = ground.ended(asked)
        assert code == 0, outcome
        assert {one.split for one in outcome.training.metrics} == {split}
        assert values(outcome) == pytest.approx(known[split], rel=1e-5)
