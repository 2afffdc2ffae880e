"""Mode Evaluate in preparation: one split counts, nothing of a training is set, no step planned."""

from __future__ import annotations

import json

import pytest

from data_ground import jsonl, questions, results
from finetune_trainer.errors import ConfigurationError, DataError
from preparation_bench import HOME, Bench


@pytest.fixture
def bench(ground):
    bench = Bench(ground)
    bench.model()
    bench.dataset(jsonl(questions(60)), split={"validation": 0.2, "test": 0.1})
    return bench


def content(name):
    """Return a JSON file of a preparation."""
    return json.loads(results().child(f"{HOME}/prepared-1-1").read(name))


@pytest.mark.parametrize(
    ("dataset", "split", "samples"),
    [
        pytest.param({}, "validation", 12, id="validation by default"),
        pytest.param({"evaluateSplit": "Train"}, "train", 42, id="training split"),
        pytest.param({"evaluateSplit": "Test"}, "test", 6, id="test split"),
    ],
)
def test_only_the_evaluated_split_is_prepared(bench, dataset, split, samples):
    dataset = {"name": "faq"} | dataset
    summary, _ = bench.prepared(mode="Evaluate", dataset=dataset)
    counts = {name: getattr(summary.dataset, name) for name in ("train", "validation", "test")}
    assert counts == {"train": 0, "validation": 0, "test": 0} | {split: samples}
    assert len(content("prompts.json")["prompts"]) == 4
    assert content(f"tokens/{split}/index.json")["samples"] == samples


def test_the_plan_of_an_evaluation_has_no_step(bench):
    summary, _ = bench.prepared(mode="Evaluate")
    plan = summary.plan
    assert (plan.total_steps, plan.steps_per_epoch, plan.epochs, plan.learning_rate) == (0, 0, 0, 0)
    assert plan.rank is None
    assert plan.digest
    assert summary.model.trainable_parameters == 0


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        pytest.param({"training": {"epochs": 2}}, "spec.training.epochs", id="training"),
        pytest.param({"adapter": {"rank": 8}}, "spec.adapter.rank", id="adapter"),
        pytest.param({"adapter": {"type": "None"}}, "spec.adapter.type", id="adapter type"),
        pytest.param({"checkpoint": {"keepLast": 3}}, "spec.checkpoint.keepLast", id="checkpoint"),
        pytest.param({"evaluation": {"atStart": True}}, "spec.evaluation.atStart", id="cadence"),
        pytest.param({"augmentation": {}}, "spec.augmentation", id="augmentation"),
    ],
)
def test_settings_of_a_training_are_refused_by_their_path(bench, spec, path):
    error = bench.refused(ConfigurationError, mode="Evaluate", **spec)
    assert error.reason == "DeadSetting"
    assert error.message.startswith(f"{path}: ")


@pytest.mark.parametrize("mode", ["Train", "Evaluate"])
@pytest.mark.parametrize(
    ("spec", "path"),
    [
        pytest.param({"generation": {"numBeams": 2}}, "spec.generation.numBeams", id="beams"),
        pytest.param({}, "spec.evaluation.perDeviceBatchSize", id="batch"),
    ],
)
def test_settings_of_answers_that_nobody_asks_for_are_refused(bench, mode, spec, path):
    asked = {"generateSamples": 0} | ({} if spec else {"perDeviceBatchSize": 8})
    error = bench.refused(ConfigurationError, mode=mode, evaluation=asked, **spec)
    assert (error.reason, error.message.partition(":")[0]) == ("DeadSetting", path)


def test_sharding_of_an_optimizer_that_does_not_exist_is_refused(bench):
    compute = {"gpusPerNode": 0, "processesPerNode": 2, "strategy": "ZeRO2"}
    error = bench.refused(ConfigurationError, mode="Evaluate", compute=compute)
    assert error.message.startswith("spec.compute.strategy: ZeRO2")


def test_an_empty_split_cannot_be_evaluated(bench):
    bench.dataset(jsonl(questions(20)), split={"validation": 0.2})
    dataset = {"name": "faq", "evaluateSplit": "Test"}
    error = bench.refused(DataError, mode="Evaluate", dataset=dataset)
    assert "evaluateSplit: the test split of faq is empty" in error.message
