"""A rank that stands still, and a launcher that does: found, ended, and all ranks restart."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness.binaries import program
from harness.containers import pod_pids, process_tree
from harness.locations import KUBECONFIG
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


@contextmanager
def _followed(namespace: str, pod: str, log: Path) -> Iterator[None]:
    """Collect a pod's log as it is written: the Job controller deletes a pod that still ran."""
    words = ["--kubeconfig", str(KUBECONFIG), "--namespace", namespace, "logs", "--follow", pod]
    with log.open("wb") as file:
        follower = subprocess.Popen([program("kubectl"), *words], stdout=file)
        try:
            yield
        finally:
            follower.kill()
            follower.wait()


def test_a_rank_that_stands_still_is_found_and_all_ranks_restart(
    sums: Ground, undisturbed: str, tmp_path: Path
) -> None:
    policy = {"hangTimeoutSeconds": HANG_SECONDS}
    pods = pod_names(started(sums, "stopped-rank", runPolicy=policy))
    log = tmp_path / "waiting.log"
    with _followed(sums.namespace, pods[0], log):
        _, rank = _launch_and_rank(sums.namespace, pods[1])
        os.kill(rank, signal.SIGSTOP)
        body = unharmed(sums, "stopped-rank", undisturbed, attempts=2, peerLost=1)

    first = record_of(body, 1)
    assert "no progress of rank" in first["message"], first
    assert (first["exitCode"], first["outcome"]) == (40, "Hang")
    assert "most recent call first" in log.read_text(), "the stacks of the rank that waited"


@pytest.mark.sweep
def test_a_launcher_that_stands_still_is_ended_by_its_probe(sums: Ground, undisturbed: str) -> None:
    pods = pod_names(started(sums, "stopped-launch"))
    launch, _ = _launch_and_rank(sums.namespace, pods[1])
    os.kill(launch, signal.SIGSTOP)

    unharmed(sums, "stopped-launch", undisturbed, attempts=2, unknown=1)
