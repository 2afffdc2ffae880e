"""A leader that stands still while another takes over does nothing when it wakes."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from harness import kubectl as kube
from harness.containers import signal_pod
from harness.images import TRAINER_IMAGE
from harness.locations import KUBECONFIG
from harness.writes import writes
from installation import (
    ACCOUNT,
    NAMESPACE,
    RELEASE,
    keep_operator_log,
    operator_pod,
    others_may_own_children,
)
from scenarios.after_faults import STEPS, pod_names, started, unharmed
from scenarios.stories import Ground, experiment

from operator_process import operator_process


@pytest.fixture(autouse=True)
def _the_second_owns_children() -> Iterator[None]:
    """It acts as another user, so that its writes can be told from the first's."""
    with others_may_own_children():
        yield


def _restarts() -> int:
    pod = kube.fetch("pod", operator_pod(), namespace=NAMESPACE)
    return int(pod["status"]["containerStatuses"][0]["restartCount"])


def _holder() -> str:
    lease = kube.fetch("lease", RELEASE, namespace=NAMESPACE)
    return str(lease["spec"].get("holderIdentity", ""))


def _wake_and_wait_for_its_end() -> datetime:
    """Continue the leader that stood still; return when its process had ended."""
    before = _restarts()
    signal_pod(NAMESPACE, operator_pod(), signal.SIGCONT)
    kube.wait_until("the old leader to end", lambda: _restarts() > before, timeout=90)
    keep_operator_log()
    return datetime.now(UTC)


async def test_a_leader_that_was_paused_writes_nothing_after_another_has_taken_over(
    sums: Ground, undisturbed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(KUBECONFIG))
    settings = {"lease_namespace": NAMESPACE, "lease_name": RELEASE}
    async with operator_process(tmp_path, trainer_image=TRAINER_IMAGE, **settings) as second:
        await second.ready()  # as a standby
        keep_operator_log()
        ranks = pod_names(await asyncio.to_thread(started, sums, "led-by-two"))
        signal_pod(NAMESPACE, operator_pod(), signal.SIGSTOP)
        assert signal_pod(sums.namespace, ranks[1])
        await second.working()
        kube.apply(experiment("of-the-second", steps=STEPS), namespace=sums.namespace)
        woken = datetime.now(UTC)
        ended = await asyncio.to_thread(_wake_and_wait_for_its_end)
        await asyncio.to_thread(unharmed, sums, "led-by-two", undisturbed, attempts=2, unknown=1)
        await asyncio.to_thread(unharmed, sums, "of-the-second", undisturbed)
        by_the_first = [
            write for write in writes(since=woken) if write.user == ACCOUNT and write.code < 300
        ]
        assert by_the_first == [], ended
        assert not _holder().startswith(operator_pod())
        assert second.complaints() == []
        assert await second.stop() == 0
    kube.wait_until("the first to lead again", lambda: _holder().startswith(operator_pod()))
