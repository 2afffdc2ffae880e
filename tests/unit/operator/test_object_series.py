"""Metrics of objects follow their statuses and vanish with them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from finetune_operator import metrics
from finetune_operator.object_series import ObjectSeries
from finetune_operator.observed import Key

RUN = Key("FineTuneExperiment", "series-test", "run")
OTHER = Key("FineTuneExperiment", "series-test", "other")
START = datetime(2026, 1, 1, tzinfo=UTC)
LABELS = {"namespace": RUN.namespace, "experiment": RUN.name}


@pytest.fixture
def series():
    found = ObjectSeries()
    yield found
    for key in (RUN, OTHER):
        found.forget(key)


def status(reason: str, **more: object) -> dict:
    return {"conditions": [{"type": "Ready", "reason": reason}], **more}


def see(series: ObjectSeries, key: Key, told: dict, *, minutes: int = 0) -> float | None:
    return series.seen(key, told, START + timedelta(minutes=minutes))


def finished(reason: str = "Completed", **more: object) -> dict:
    found = status(reason, **more)
    found["conditions"].append({"type": "Complete", "status": "True", "reason": reason})
    return found


def value(name: str, **labels: str) -> float | None:
    return metrics.REGISTRY.get_sample_value(name, labels)


def count(reason: str) -> float | None:
    labels = {"kind": RUN.kind, "namespace": RUN.namespace, "status": reason}
    return value("finetune_objects", **labels)


def test_objects_are_counted_by_their_present_reason(series):
    see(series, RUN, status("Queued"))
    see(series, OTHER, status("Queued"))
    see(series, RUN, status("Training"))
    assert (count("Queued"), count("Training")) == (1, 1)
    assert value("finetune_experiment_status", **LABELS, status="Training") == 1
    assert value("finetune_experiment_status", **LABELS, status="Queued") is None


def test_progress_becomes_numbers(series):
    progress = {"percentage": 40, "step": 12, "loss": 1.5}
    see(series, RUN, status("Training", progress=progress, attempt={"number": 2}))
    assert value("finetune_experiment_progress_ratio", **LABELS) == 0.4
    assert value("finetune_experiment_step", **LABELS) == 12
    assert value("finetune_experiment_loss", **LABELS) == 1.5
    assert value("finetune_experiment_attempt", **LABELS) == 2


def test_restarts_are_counted_from_the_first_look_on_and_start_at_zero(series):
    name = "finetune_experiment_restarts_total"
    labels = {**LABELS, "class": "peerLost"}
    see(series, RUN, status("Training", restarts={"peerLost": 3}))
    assert value(name, **labels) == 0
    see(series, RUN, status("Restarting", restarts={"peerLost": 5}))
    assert value(name, **labels) == 2


def test_a_deleted_object_leaves_no_series(series):
    see(series, RUN, status("Training", progress={"percentage": 1, "loss": 2.0}))
    series.forget(RUN)
    text = metrics.exposition()[0].decode()
    assert 'experiment="run"' not in text


def test_the_last_values_of_a_run_stay_for_ten_minutes_and_then_only_its_count(series):
    see(series, RUN, status("Training", progress={"percentage": 90, "loss": 1.1}))
    assert see(series, RUN, finished(), minutes=1) == 600
    assert value("finetune_experiment_loss", **LABELS) == 1.1
    assert see(series, RUN, finished(), minutes=11) is None
    assert value("finetune_experiment_loss", **LABELS) is None
    assert count("Completed") == 1


def test_a_run_that_was_over_before_we_looked_has_a_count_and_no_series(series):
    assert see(series, RUN, finished(progress={"percentage": 100, "loss": 1.0})) is None
    assert count("Completed") == 1
    assert "run" not in {
        sample.labels.get("experiment")
        for family in metrics.REGISTRY.collect()
        for sample in family.samples
    }


def test_a_run_that_begins_anew_is_shown_again(series):
    see(series, RUN, status("Training"))
    see(series, RUN, finished())
    see(series, RUN, status("Preparing"), minutes=20)
    assert value("finetune_experiment_status", **LABELS, status="Preparing") == 1


def test_efficiency_and_its_lost_steps_are_told(series):
    told = {"trainingRatio": 0.5, "trainedSeconds": 40.0, "lostSteps": 7, "recoverySeconds": 33.0}
    progress = {"percentage": 1, "stepSeconds": 2.5, "updateTime": "2026-01-01T00:00:00Z"}
    see(series, RUN, status("Training", efficiency=told, progress=progress))
    assert value("finetune_experiment_effective_time_ratio", **LABELS) == 0.5
    assert value("finetune_experiment_recovery_seconds", **LABELS) == 33.0
    assert value("finetune_experiment_lost_steps_total", **LABELS) == 0
    moved = "finetune_experiment_last_progress_timestamp_seconds"
    assert value(moved, **LABELS) == START.timestamp()
    see(series, RUN, status("Training", efficiency=told | {"lostSteps": 9}))
    assert value("finetune_experiment_lost_steps_total", **LABELS) == 2


def gpu_time() -> dict[str, float | None]:
    uses = ("useful", "lost", "startup", "evaluation", "other")
    return {use: value("finetune_experiment_gpu_seconds", **LABELS, use=use) for use in uses}


def test_gpu_time_is_told_by_use_and_the_rest_has_no_name(series):
    cost = {"gpuSeconds": 100, "usefulGpuSeconds": 60, "lostGpuSeconds": 10}
    cost |= {"startupGpuSeconds": 20, "evaluationGpuSeconds": 4}
    see(series, RUN, status("Training", cost=cost | {"forecastGpuSeconds": 250}))
    assert list(gpu_time().values()) == [60, 10, 20, 4, 6]
    assert value("finetune_experiment_forecast_gpu_seconds", **LABELS) == 250
    see(series, RUN, status("Training", cost=cost))
    assert value("finetune_experiment_forecast_gpu_seconds", **LABELS) is None
    see(series, RUN, status("Preparing"))
    assert set(gpu_time().values()) == {None}


def test_only_what_waits_has_a_time_of_waiting_and_only_what_runs_holds_gpus(series):
    waiting = {"createdTime": "2026-01-01T00:00:00Z", "gpus": 8}
    see(series, RUN, status("Queued", attempt=waiting))
    name = "finetune_experiment_queued_timestamp_seconds"
    assert value(name, **LABELS) == START.timestamp()
    assert value("finetune_experiment_gpus", **LABELS) == 0
    see(series, RUN, status("Starting", attempt=waiting))
    assert value(name, **LABELS) is None
    assert value("finetune_experiment_gpus", **LABELS) == 8


def test_checkpoints_tell_when_they_came_and_how_far_apart_they_are(series):
    def saved(step, attempt=1):
        latest = {"latest": {"step": step}}
        return status("Training", checkpoints=latest, attempt={"number": attempt})

    at = "finetune_experiment_checkpoint_timestamp_seconds"
    apart = "finetune_experiment_checkpoint_interval_seconds"
    see(series, RUN, saved(10))
    assert value(apart, **LABELS) is None
    see(series, RUN, saved(20), minutes=2)
    see(series, RUN, saved(20), minutes=3)
    assert (value(apart, **LABELS), value(at, **LABELS)) == (120, START.timestamp() + 120)
    see(series, RUN, saved(30, attempt=2), minutes=60)
    assert (value(apart, **LABELS), value(at, **LABELS)) == (120, START.timestamp() + 3600)


def test_an_end_is_counted_once_with_its_class_and_all_classes_begin_at_zero(series):
    def ends(kind, **labels):
        told = {"namespace": RUN.namespace, "outcome": kind, "class": "", **labels}
        return value("finetune_experiments_finished_total", **told) or 0

    before = ends("Failed", **{"class": "Data"}), ends("Completed")
    failed = status("InvalidData", history=[{"class": "Data"}])
    failed["conditions"].append({"type": "Failed", "status": "True", "reason": "InvalidData"})
    see(series, RUN, status("Training"))
    see(series, RUN, failed)
    see(series, RUN, failed, minutes=1)
    see(series, OTHER, status("Training"))
    see(series, OTHER, finished())
    assert ends("Failed", **{"class": "Data"}) == before[0] + 1
    assert ends("Completed") == before[1] + 1
    labels = {"namespace": RUN.namespace, "outcome": "Failed", "class": "NotFinite"}
    assert value("finetune_experiments_finished_total", **labels) == 0


def test_the_claim_of_a_run_is_in_use_while_it_is_shown(series):
    labels = {**LABELS, "persistentvolumeclaim": "artifacts"}
    see(series, RUN, status("Training", preparation={"uri": "pvc://artifacts/ml/prepared-1"}))
    assert value("finetune_volume_in_use", **labels) == 1
    series.forget(RUN)
    assert value("finetune_volume_in_use", **labels) is None
