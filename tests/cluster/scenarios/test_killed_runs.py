"""Five kills at random moments: the weights are those of a run that nothing happened to."""

from __future__ import annotations

import random

from harness import kubectl as kube
from harness.containers import signal_pod
from scenarios.stories import (
    Ground,
    experiment,
    newest_checkpoint,
    rank_pods,
    running_since_checkpoint,
    wait_for_condition,
    weights_digest,
)

STEPS, KILLS = 500, 5


def test_a_run_of_two_pods_killed_five_times_ends_with_the_same_weights(sums: Ground) -> None:
    kube.apply(experiment("unharmed", steps=STEPS), namespace=sums.namespace)
    calm = wait_for_condition(
        "finetuneexperiment", "unharmed", sums.namespace, "Complete", timeout=400
    )
    patient = {"runPolicy": {"retries": {"unknown": KILLS, "peerLost": KILLS}}}
    kube.apply(experiment("harmed", steps=STEPS, **patient), namespace=sums.namespace)
    chance, ranks = random.Random(), []
    for _ in range(KILLS):
        after = max(0, newest_checkpoint(sums.files, "harmed")) + 10 * chance.randint(1, 4)
        running_since_checkpoint(sums.namespace, "harmed", sums.files, step=after)
        ranks.append(chance.randrange(2))
        running = [
            pod["metadata"]["name"]
            for pod in rank_pods(sums.namespace, "harmed")
            if pod["status"]["phase"] == "Running"
        ]
        assert signal_pod(sums.namespace, sorted(running)[ranks[-1]]), ranks

    body = wait_for_condition(
        "finetuneexperiment", "harmed", sums.namespace, "Complete", timeout=600
    )

    assert body["status"]["attempt"]["number"] == KILLS + 1, ranks
    assert weights_digest(sums.files, body) == weights_digest(sums.files, calm), ranks
