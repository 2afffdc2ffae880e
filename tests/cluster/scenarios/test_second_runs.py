"""Run again, go on, give up: reruns, deadlines and clean-up on a real cluster."""

from __future__ import annotations

import json
from typing import Any

from harness import kubectl as kube
from scenarios.stories import (
    Ground,
    condition,
    dataset,
    experiment,
    rank_pods,
    running_since_checkpoint,
    wait_for,
    wait_for_condition,
)

KIND = "finetuneexperiment"


def _patch(sums: Ground, kind: str, name: str, spec: dict[str, Any]) -> None:
    patch = json.dumps({"spec": spec})
    kube.kubectl("patch", kind, name, "--type=merge", "-p", patch, namespace=sums.namespace)


def test_a_run_that_is_too_long_fails_with_a_checkpoint_and_goes_on_when_asked(
    sums: Ground,
) -> None:
    spec = {"runPolicy": {"activeDeadlineSeconds": 25}, "checkpoint": {"everySteps": 20}}
    kube.apply(experiment("late", steps=2000, **spec), namespace=sums.namespace)
    failed = wait_for_condition(KIND, "late", sums.namespace, "Failed")
    assert condition(failed, "Failed")["reason"] == "DeadlineExceeded"
    reached = failed["status"]["checkpoints"]["latest"]["step"]
    assert reached > 0
    assert not [p for p in rank_pods(sums.namespace, "late") if p["status"]["phase"] == "Running"]

    wanted = {"rerun": "once-more", "rerunFrom": "LastCheckpoint"}
    _patch(sums, KIND, "late", wanted)
    again = wait_for(
        KIND, "late", sums.namespace,
        lambda b: b["status"].get("checkpoints", {}).get("latest", {}).get("step", 0) > reached,
    )  # fmt: skip
    assert again["status"]["revision"] == 2
    assert again["status"]["attempt"]["number"] == 2
    assert again["status"]["revisions"][0]["outcome"] == "DeadlineExceeded"


def test_another_rate_with_a_new_token_stops_the_run_and_begins_anew(sums: Ground) -> None:
    kube.apply(experiment("anew", steps=2000), namespace=sums.namespace)
    running_since_checkpoint(sums.namespace, "anew", sums.files)
    training = {"maxSteps": 40, "learningRate": 2e-3}
    _patch(sums, KIND, "anew", {"rerun": "slower", "training": training})

    body = wait_for_condition(KIND, "anew", sums.namespace, "Complete", timeout=400)
    assert body["status"]["revision"] == 2
    assert body["status"]["attempt"]["number"] == 2
    assert body["status"]["plan"]["learningRate"] == 2e-3
    assert body["status"]["result"]["step"] == 40
    assert body["status"]["restarts"]["unknown"] == 0


def test_jobs_go_after_their_time_and_the_status_stays(sums: Ground) -> None:
    kube.apply(
        dataset("short-lived", runPolicy={"ttlSecondsAfterFinished": 5}), namespace=sums.namespace
    )
    before = wait_for_condition("dataset", "short-lived", sums.namespace, "Ready")
    selector = "finetune.dev/dataset=short-lived"

    def gone() -> bool:
        found = kube.fetch("jobs", namespace=sums.namespace, selector=selector)
        return found["items"] == []

    kube.wait_until("the Job is gone", gone, timeout=60)
    after = wait_for_condition("dataset", "short-lived", sums.namespace, "Ready")
    assert after["status"] == before["status"]
