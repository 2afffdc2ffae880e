"""Five kills at random moments: the weights are those of a run that nothing happened to."""

from __future__ import annotations

import functools
import random
from pathlib import Path

from harness import kubectl as kube
from harness.containers import signal_pod
from harness.object_store import bucket_directory
from scenarios.after_faults import STEPS, pod_names, ranks, unharmed
from scenarios.stories import Ground, bucket, checkpoints, experiment, newest_checkpoint

KILLS = 5


def _saved(attempt: int) -> int:
    """Return the newest step that an attempt itself has saved, or -1."""
    found = checkpoints(_files(), "harmed")
    own = [path for path in found if path.parts[-3].startswith(f"attempt-{attempt}.")]
    return max((int(path.parts[-2][5:]) for path in own), default=-1)


def _reached(attempt: int, step: int) -> bool:
    return _saved(attempt) >= step


def _files() -> Path:
    return bucket_directory() / "harmed"


def test_a_run_of_two_pods_killed_five_times_ends_with_the_same_weights(
    sums: Ground, undisturbed: str
) -> None:
    """Results go to S3 itself: each attempt gets far enough to save, and not much further."""
    patient = {"runPolicy": {"retries": {"unknown": KILLS, "peerLost": KILLS}}}
    storage = {"s3": bucket("harmed")}
    kube.apply(
        experiment("harmed", steps=STEPS, storage=storage, **patient), namespace=sums.namespace
    )
    chance, struck = random.Random(), 0
    for attempt in range(1, KILLS + 1):
        after = max(0, newest_checkpoint(_files(), "harmed")) + 10 * chance.randint(1, 2)
        kube.wait_until(
            f"step {after} of attempt {attempt}",
            functools.partial(_reached, attempt, after),
            timeout=240,
            interval=0.2,
        )
        victim = pod_names(ranks(sums, "harmed", attempt))[chance.randrange(2)]
        struck += len(signal_pod(sums.namespace, victim))

    assert struck == KILLS
    ground = Ground(sums.namespace, _files())
    unharmed(ground, "harmed", undisturbed, attempts=KILLS + 1, unknown=KILLS)
