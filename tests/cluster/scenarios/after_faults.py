"""What must hold after a fault: the same weights, nothing lost, nothing twice, nothing left."""

from __future__ import annotations

import itertools
from datetime import datetime
from typing import Any

from harness import kubectl as kube
from scenarios.stories import (
    Ground,
    Manifest,
    experiment,
    rank_pods,
    running_since_checkpoint,
    wait_for_condition,
    weights_digest,
)

KIND, STEPS = "finetuneexperiment", 200
ATTEMPT = "finetune.dev/attempt"


def started(ground: Ground, name: str, *, steps: int = STEPS, **spec: Any) -> list[Manifest]:
    """Apply a run, wait for its first checkpoint and return the pods of its ranks, in order."""
    kube.apply(experiment(name, steps=steps, **spec), namespace=ground.namespace)
    running_since_checkpoint(ground.namespace, name, ground.files)
    return ranks(ground, name)


def ranks(ground: Ground, name: str, attempt: int = 1) -> list[Manifest]:
    """Return the pods of an attempt, by rank."""
    found = rank_pods(ground.namespace, name)
    own = [pod for pod in found if pod["metadata"]["labels"][ATTEMPT] == str(attempt)]
    return sorted(own, key=lambda pod: str(pod["metadata"]["name"]))


def pod_names(pods: list[Manifest]) -> list[str]:
    """Return the names of pods."""
    return [pod["metadata"]["name"] for pod in pods]


def pod_uids(pods: list[Manifest]) -> set[str]:
    """Return the UIDs of pods: the same ones mean that nothing was started anew."""
    return {pod["metadata"]["uid"] for pod in pods}


def record_of(body: Manifest, attempt: int) -> Manifest:
    """Return what the history says of an attempt."""
    found: list[Manifest] = body["status"]["history"]
    return next(one for one in found if (one["stage"], one["number"]) == ("attempt", attempt))


def unharmed(
    ground: Ground, name: str, weights: str, *, attempts: int = 1, **restarts: int
) -> Manifest:
    """Wait for the good end; it has these weights, came by so many attempts and cost what is told.

    `restarts` are counters of `status.restarts` in their own spelling; all others must be 0.
    """
    body = wait_for_condition(KIND, name, ground.namespace, "Complete", timeout=900)
    status = body["status"]
    assert weights_digest(ground.files, body) == weights, name
    assert status["attempt"]["number"] == attempts, status["history"]
    assert status["restarts"] == dict.fromkeys(status["restarts"], 0) | restarts, status["history"]
    nothing_ran_twice_or_is_left(ground, name, attempts)
    return body


def nothing_ran_twice_or_is_left(ground: Ground, name: str, attempts: int) -> None:
    """The Jobs are those of the attempts, none overlapped another, and no pod runs any more."""
    selector = f"finetune.dev/experiment={name}"
    jobs = kube.fetch("jobs", namespace=ground.namespace, selector=selector)["items"]
    numbers = [job["metadata"]["name"].rpartition("-a")[2] for job in jobs]
    own = sorted(int(number) for number in numbers if number.isdigit())
    assert set(own) <= set(range(1, attempts + 1)), own
    assert own[-1] == attempts, own
    pods = rank_pods(ground.namespace, name)
    assert {pod["status"]["phase"] for pod in pods} <= {"Succeeded", "Failed"}
    spans = [_span([pod for pod in pods if _attempt(pod) == number]) for number in own]
    known = [span for span in spans if span is not None]
    for (_, ended), (began, _) in itertools.pairwise(known):
        assert ended <= began, f"two attempts of {name} ran at the same time"


def _attempt(pod: Manifest) -> int:
    return int(pod["metadata"]["labels"][ATTEMPT])


def _span(pods: list[Manifest]) -> tuple[datetime, datetime] | None:
    """Return when the first container of these pods began and the last one ended."""
    states = [
        each["state"]["terminated"]
        for pod in pods
        for each in pod["status"].get("containerStatuses", ())
        if (each["state"].get("terminated") or {}).get("startedAt")
    ]
    if not states:
        return None
    began = min(datetime.fromisoformat(state["startedAt"]) for state in states)
    return began, max(datetime.fromisoformat(state["finishedAt"]) for state in states)
