"""Leader election: one leader, judged by change and own clock; the fencing number only rises."""

from __future__ import annotations

import asyncio

import pytest

from finetune_operator import leader as leader_module
from finetune_operator.errors import CredentialsError, LeadershipLostError, UnavailableError
from finetune_operator.leader import DURATION_SECONDS, RENEW_DEADLINE_SECONDS, Leader
from recording_cluster import RecordingCluster


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(leader_module, "RETRY_SECONDS", 0.0)


def candidate(store: RecordingCluster, clock: Clock, name: str) -> Leader:
    return Leader(store, namespace="ops", name="finetune-operator", identity=name, clock=clock)


def lease(store: RecordingCluster) -> dict:
    return store.objects["Lease", "ops", "finetune-operator"]


async def acquired(who: Leader) -> bool:
    try:
        await asyncio.wait_for(who.acquire(), 0.05)
    except TimeoutError:
        return False
    return True


async def test_the_first_candidate_leads_with_a_fencing_number():
    store = RecordingCluster()
    first = candidate(store, Clock(), "one")
    assert await acquired(first)
    assert (first.fence, lease(store)["spec"]["holderIdentity"]) == (1, "one")


async def test_who_stood_still_may_not_act_when_it_wakes():
    clock = Clock()
    first = candidate(RecordingCluster(), clock, "one")
    with pytest.raises(LeadershipLostError):
        first.must_lead()
    await first.acquire()
    clock.now += RENEW_DEADLINE_SECONDS
    first.must_lead()
    clock.now += 1
    with pytest.raises(LeadershipLostError):
        first.must_lead()
    assert RENEW_DEADLINE_SECONDS < DURATION_SECONDS


async def test_a_lease_that_keeps_changing_is_never_taken():
    store, clock = RecordingCluster(), Clock()
    first, second = candidate(store, clock, "one"), candidate(store, clock, "two")
    await first.acquire()
    for _ in range(5):
        clock.now += DURATION_SECONDS / 2
        await first._write()
        await second._try()
        assert second.fence is None


async def test_a_lease_unchanged_for_its_duration_is_taken_with_a_higher_number():
    store, clock = RecordingCluster(), Clock()
    await candidate(store, clock, "one").acquire()
    second = candidate(store, clock, "two")
    assert not await acquired(second)
    clock.now += DURATION_SECONDS
    assert await acquired(second)
    assert (second.fence, lease(store)["spec"]["holderIdentity"]) == (2, "two")


@pytest.mark.parametrize(
    ("pod", "taken"), [("operator-x7", True), ("operator-x", False), ("", False)]
)
async def test_only_a_process_of_the_same_pod_takes_over_at_once(pod: str, taken: bool):
    store, clock = RecordingCluster(), Clock()
    await candidate(store, clock, "operator-x7_1a2b").acquire()
    second = candidate(store, clock, f"{pod}_3c4d")
    second.pod = pod
    assert await acquired(second) is taken
    assert second.fence == (2 if taken else None)


async def test_the_time_written_in_the_lease_decides_nothing():
    """A record from the far past, first seen just now, is respected for its whole duration."""
    store, clock = RecordingCluster(), Clock()
    await candidate(store, clock, "one").acquire()
    lease(store)["spec"]["renewTime"] = "1999-01-01T00:00:00.000000Z"
    assert not await acquired(candidate(store, clock, "two"))


async def test_of_two_who_take_over_at_once_one_wins():
    store, clock = RecordingCluster(), Clock()
    await candidate(store, clock, "one").acquire()
    rivals = [candidate(store, clock, "two"), candidate(store, clock, "three")]
    for rival in rivals:
        await rival._try()
    clock.now += DURATION_SECONDS
    await asyncio.gather(*(rival._try() for rival in rivals))
    assert len([rival for rival in rivals if rival.fence is not None]) == 1


async def test_a_released_lease_is_free_at_once_and_the_number_rises():
    store, clock = RecordingCluster(), Clock()
    first, second = candidate(store, clock, "one"), candidate(store, clock, "two")
    await first.acquire()
    await first.release()
    assert first.fence is None
    assert await acquired(second)
    assert second.fence == 2


async def test_a_paused_leader_that_wakes_after_a_takeover_stops():
    store, clock = RecordingCluster(), Clock()
    first, second = candidate(store, clock, "one"), candidate(store, clock, "two")
    await first.acquire()
    await second._try()
    clock.now += DURATION_SECONDS
    await second._try()
    with pytest.raises(LeadershipLostError):
        await asyncio.wait_for(first.keep(), 1)


async def test_a_leader_that_cannot_renew_in_time_stops():
    store, clock = RecordingCluster(), Clock()
    first = candidate(store, clock, "one")
    await first.acquire()
    clock.now += RENEW_DEADLINE_SECONDS
    store.fail_next("replace_lease", UnavailableError("down"))
    with pytest.raises(LeadershipLostError):
        await asyncio.wait_for(first.keep(), 1)


async def test_a_short_outage_costs_no_leadership():
    store, clock = RecordingCluster(), Clock()
    first = candidate(store, clock, "one")
    await first.acquire()
    before = lease(store)["metadata"]["resourceVersion"]
    store.fail_next("replace_lease", UnavailableError("down"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(first.keep(), 0.05)
    assert lease(store)["metadata"]["resourceVersion"] != before


async def test_a_renewal_whose_answer_was_lost_is_no_lost_leadership():
    store, clock = RecordingCluster(), Clock()
    first = candidate(store, clock, "one")
    await first.acquire()
    store.put(lease(store))  # the write arrived, its answer did not
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(first.keep(), 0.05)
    assert lease(store)["spec"]["holderIdentity"] == "one"


async def test_the_number_is_raised_above_every_fence_found():
    store = RecordingCluster()
    first = candidate(store, Clock(), "one")
    await first.acquire()
    await first.raise_above(41)
    assert (first.fence, lease(store)["spec"]["leaseTransitions"]) == (42, 42)
    await first.raise_above(7)
    assert first.fence == 42


async def test_a_renewal_at_the_same_moment_never_lowers_the_number():
    store = RecordingCluster()
    first = candidate(store, Clock(), "one")
    await first.acquire()
    await asyncio.gather(first._write(), first.raise_above(41), first._write())
    assert lease(store)["spec"]["leaseTransitions"] == 42


async def test_a_candidate_whose_credentials_are_rejected_ends():
    store = RecordingCluster()
    store.fail_next("read", CredentialsError("401", status=401))
    with pytest.raises(CredentialsError):
        await asyncio.wait_for(candidate(store, Clock(), "one").acquire(), 1)
