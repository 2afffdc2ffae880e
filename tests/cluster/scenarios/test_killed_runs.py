"""Five kills at random moments: the weights are those of a run that nothing happened to."""

from __future__ import annotations

import random
from typing import Any

from harness import kubectl as kube
from harness.containers import signal_pod
from scenarios.stories import (
    Ground,
    condition,
    experiment,
    newest_checkpoint,
    rank_pods,
    running_since_checkpoint,
    wait_for,
    wait_for_condition,
    weights_digest,
)

STEPS, KILLS = 600, 5
ATTEMPT = "finetune.dev/attempt"


def _pods(sums: Ground, attempt: int) -> list[str]:
    """Return the names of an attempt's pods, by rank."""
    found = (pod["metadata"] for pod in rank_pods(sums.namespace, "harmed"))
    return sorted(pod["name"] for pod in found if pod["labels"][ATTEMPT] == str(attempt))


def _joined(sums: Ground, attempt: int) -> None:
    """Wait until an attempt trains: pods and checkpoints of the last one are left alone."""

    def trains(body: dict[str, Any]) -> bool:
        number = body["status"].get("attempt", {}).get("number")
        return number == attempt and condition(body, "Ready")["reason"] == "Training"

    wait_for("finetuneexperiment", "harmed", sums.namespace, trains)


def test_a_run_of_two_pods_killed_five_times_ends_with_the_same_weights(sums: Ground) -> None:
    kube.apply(experiment("unharmed", steps=STEPS), namespace=sums.namespace)
    calm = wait_for_condition(
        "finetuneexperiment", "unharmed", sums.namespace, "Complete", timeout=400
    )
    patient = {"runPolicy": {"retries": {"unknown": KILLS, "peerLost": KILLS}}}
    kube.apply(experiment("harmed", steps=STEPS, **patient), namespace=sums.namespace)
    chance, ranks = random.Random(), []
    for attempt in range(1, KILLS + 1):
        _joined(sums, attempt)
        after = max(0, newest_checkpoint(sums.files, "harmed")) + 10 * chance.randint(1, 4)
        running_since_checkpoint(sums.namespace, "harmed", sums.files, step=after)
        ranks.append(chance.randrange(2))
        victim = _pods(sums, attempt)[ranks[-1]]
        assert signal_pod(sums.namespace, victim), (ranks, victim)

    body = wait_for_condition(
        "finetuneexperiment", "harmed", sums.namespace, "Complete", timeout=600
    )

    assert body["status"]["attempt"]["number"] == KILLS + 1, ranks
    assert weights_digest(sums.files, body) == weights_digest(sums.files, calm), ranks
