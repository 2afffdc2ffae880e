"""A run in a queue on a real API server; the queue is played, or a real Kueue if there is one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from harness import kubectl as kube
from kueue_objects import KUEUE, NEEDED, QUEUE
from scenarios.after_faults import KIND, STEPS, unharmed
from scenarios.queue_controllers import QueueController, played, real
from scenarios.stories import (
    Ground,
    condition,
    experiment,
    rank_pods,
    read,
    running_since_checkpoint,
    wait_for,
)


@pytest.fixture(
    params=[
        pytest.param(played, id="played"),
        pytest.param(real, id="kueue", marks=pytest.mark.skipif(not KUEUE, reason=NEEDED)),
    ]
)
def queue(request: pytest.FixtureRequest, sums: Ground) -> Iterator[QueueController]:
    """Who decides for the queue of the namespace."""
    with request.param(sums.namespace) as controller:
        yield controller
        kube.kubectl("delete", KIND, controller.run, "--ignore-not-found", namespace=sums.namespace)


def test_a_queued_run_waits_is_admitted_preempted_and_goes_on(
    queue: QueueController, sums: Ground, undisturbed: str
) -> None:
    run = queue.run
    queued = {"scheduling": {"queueName": QUEUE}}
    kube.apply(experiment(run, steps=STEPS, **queued), namespace=sums.namespace)

    wait_for(KIND, run, sums.namespace, lambda b: condition(b, "Ready").get("reason") == "Queued")
    job = kube.wait_until("the Job", lambda: _job(sums, run), timeout=60)
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == QUEUE
    assert rank_pods(sums.namespace, run) == []
    queue.refuse(job)
    told = wait_for(
        KIND, run, sums.namespace,
        lambda b: queue.words in condition(b, "QuotaReserved").get("message", ""), timeout=120,
    )  # fmt: skip
    assert condition(told, "QuotaReserved")["reason"] == "WaitingForQuota"

    queue.admit(f"{run}-a1")
    running_since_checkpoint(sums.namespace, run, sums.files, step=20)
    queue.take_back(f"{run}-a1")
    wait_for(
        KIND, run, sums.namespace,
        lambda b: b["status"]["restarts"]["disruption"] == 1
        and condition(b, "Ready")["reason"] == "Queued",
    )  # fmt: skip
    queue.admit(f"{run}-a1")

    unharmed(sums, run, undisturbed, disruption=1)


def _job(ground: Ground, run: str) -> dict[str, Any] | None:
    if not read(KIND, run, ground.namespace)["status"]["children"].get("job"):
        return None
    return kube.fetch("job", f"{run}-a1", namespace=ground.namespace)
