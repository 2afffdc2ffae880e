"""Metrics of objects follow their statuses and vanish with them."""

from __future__ import annotations

import pytest

from finetune_operator import metrics
from finetune_operator.object_series import ObjectSeries
from finetune_operator.observed import Key

RUN = Key("FineTuneExperiment", "series-test", "run")
OTHER = Key("FineTuneExperiment", "series-test", "other")
LABELS = {"namespace": RUN.namespace, "experiment": RUN.name}


@pytest.fixture
def series():
    found = ObjectSeries()
    yield found
    for key in (RUN, OTHER):
        found.forget(key)


def status(reason: str, **more: object) -> dict:
    return {"conditions": [{"type": "Ready", "reason": reason}], **more}


def value(name: str, **labels: str) -> float | None:
    return metrics.REGISTRY.get_sample_value(name, labels)


def count(reason: str) -> float | None:
    labels = {"kind": RUN.kind, "namespace": RUN.namespace, "status": reason}
    return value("finetune_objects", **labels)


def test_objects_are_counted_by_their_present_reason(series):
    series.seen(RUN, status("Queued"))
    series.seen(OTHER, status("Queued"))
    series.seen(RUN, status("Training"))
    assert (count("Queued"), count("Training")) == (1, 1)
    assert value("finetune_experiment_status", **LABELS, status="Training") == 1
    assert value("finetune_experiment_status", **LABELS, status="Queued") is None


def test_progress_becomes_numbers(series):
    progress = {"percentage": 40, "step": 12, "loss": 1.5}
    series.seen(RUN, status("Training", progress=progress, attempt={"number": 2}))
    assert value("finetune_experiment_progress_ratio", **LABELS) == 0.4
    assert value("finetune_experiment_step", **LABELS) == 12
    assert value("finetune_experiment_loss", **LABELS) == 1.5
    assert value("finetune_experiment_attempt", **LABELS) == 2


def test_restarts_are_counted_from_the_first_look_on_and_start_at_zero(series):
    name = "finetune_experiment_restarts_total"
    labels = {**LABELS, "class": "peerLost"}
    series.seen(RUN, status("Training", restarts={"peerLost": 3}))
    assert value(name, **labels) == 0
    series.seen(RUN, status("Restarting", restarts={"peerLost": 5}))
    assert value(name, **labels) == 2


def test_a_deleted_object_leaves_no_series(series):
    series.seen(RUN, status("Training", progress={"percentage": 1, "loss": 2.0}))
    series.forget(RUN)
    text = metrics.exposition()[0].decode()
    assert "series-test" not in text
