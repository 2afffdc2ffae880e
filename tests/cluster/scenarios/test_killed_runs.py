"""Five kills at random moments: the weights are those of a run that nothing happened to."""

from __future__ import annotations

import functools
import random

from harness import kubectl as kube
from harness.containers import signal_pod
from scenarios.stories import (
    Ground,
    checkpoints,
    experiment,
    newest_checkpoint,
    rank_pods,
    wait_for_condition,
    weights_digest,
)

STEPS, KILLS = 800, 5
ATTEMPT = "finetune.dev/attempt"


def _pods(sums: Ground, attempt: int) -> list[str]:
    """Return the names of an attempt's pods, by rank."""
    found = (pod["metadata"] for pod in rank_pods(sums.namespace, "harmed"))
    return sorted(pod["name"] for pod in found if pod["labels"][ATTEMPT] == str(attempt))


def _saved(sums: Ground, attempt: int) -> int:
    """Return the newest step that an attempt itself has saved, or -1."""
    found = checkpoints(sums.files, "harmed")
    own = [path for path in found if path.parts[-3].startswith(f"attempt-{attempt}.")]
    return max((int(path.parts[-2][5:]) for path in own), default=-1)


def _reached(sums: Ground, attempt: int, step: int) -> bool:
    return _saved(sums, attempt) >= step


def test_a_run_of_two_pods_killed_five_times_ends_with_the_same_weights(sums: Ground) -> None:
    kube.apply(experiment("unharmed", steps=STEPS), namespace=sums.namespace)
    calm = wait_for_condition(
        "finetuneexperiment", "unharmed", sums.namespace, "Complete", timeout=400
    )
    patient = {"runPolicy": {"retries": {"unknown": KILLS, "peerLost": KILLS}}}
    kube.apply(experiment("harmed", steps=STEPS, **patient), namespace=sums.namespace)
    chance, ranks = random.Random(), []
    for attempt in range(1, KILLS + 1):
        after = max(0, newest_checkpoint(sums.files, "harmed")) + 10 * chance.randint(1, 4)
        kube.wait_until(
            f"step {after} of attempt {attempt}",
            functools.partial(_reached, sums, attempt, after),
            timeout=240,
            interval=0.2,
        )
        ranks.append(chance.randrange(2))
        victim = _pods(sums, attempt)[ranks[-1]]
        assert signal_pod(sums.namespace, victim), (ranks, victim)

    body = wait_for_condition(
        "finetuneexperiment", "harmed", sums.namespace, "Complete", timeout=600
    )

    assert body["status"]["attempt"]["number"] == KILLS + 1, ranks
    assert weights_digest(sums.files, body) == weights_digest(sums.files, calm), ranks
