"""A rank that stands still, and a launcher that does: found, ended, and all ranks restart."""

from __future__ import annotations

import os
import signal

import pytest
from harness import kubectl as kube
from harness.containers import pod_pids, process_tree
from scenarios.after_faults import pod_names, record_of, started, unharmed
from scenarios.stories import Ground

HANG_SECONDS = 15


def _launch_and_rank(namespace: str, pod: str) -> tuple[int, int]:
    """Return the host's pids of a pod's launcher and of the rank it has started."""
    (launch,) = pod_pids(namespace, pod)
    for pid in process_tree(launch)[1:]:
        with open(f"/proc/{pid}/cmdline", "rb") as words:
            if words.read().rstrip(b"\0").endswith(b"\0rank"):
                return launch, pid
    raise AssertionError(f"{pod} has no rank")


def test_a_rank_that_stands_still_is_found_and_all_ranks_restart(
    sums: Ground, undisturbed: str
) -> None:
    policy = {"hangTimeoutSeconds": HANG_SECONDS}
    pods = pod_names(started(sums, "stopped-rank", runPolicy=policy))
    _, rank = _launch_and_rank(sums.namespace, pods[1])
    os.kill(rank, signal.SIGSTOP)

    body = unharmed(sums, "stopped-rank", undisturbed, attempts=2, peerLost=1)

    first = record_of(body, 1)
    assert "no progress of rank" in first["message"], first
    assert (first["exitCode"], first["outcome"]) == (40, "Hang")
    waiting = kube.kubectl("logs", pods[0], namespace=sums.namespace)
    assert "most recent call first" in waiting, "the stacks of the rank that waited"


@pytest.mark.sweep
def test_a_launcher_that_stands_still_is_ended_by_its_probe(sums: Ground, undisturbed: str) -> None:
    pods = pod_names(started(sums, "stopped-launch"))
    launch, _ = _launch_and_rank(sums.namespace, pods[1])
    os.kill(launch, signal.SIGSTOP)

    unharmed(sums, "stopped-launch", undisturbed, attempts=2, unknown=1)
