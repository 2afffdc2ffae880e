"""The write budget: a burst, then a rate, then whatever pause the server asks for."""

from __future__ import annotations

import pytest

from finetune_operator.cluster.kubernetes_cluster import KubernetesCluster
from finetune_operator.errors import LeadershipLostError, ThrottledError
from finetune_operator.write_budget import TokenBucket


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_goes_through_and_then_callers_queue_at_the_rate():
    bucket = TokenBucket(rate=10, burst=3, clock=Clock())
    waits = [round(bucket.reserve(), 3) for _ in range(6)]
    assert waits == [0, 0, 0, 0.1, 0.2, 0.3]


def test_idle_time_gives_back_no_more_than_the_burst():
    clock = Clock()
    bucket = TokenBucket(rate=10, burst=2, clock=clock)
    bucket.reserve()
    clock.now += 1000
    assert [round(bucket.reserve(), 3) for _ in range(3)] == [0, 0, 0.1]


def test_there_is_something_to_spare_until_somebody_waits_or_pauses():
    clock = Clock()
    bucket = TokenBucket(rate=10, burst=2, clock=clock)
    assert bucket.has_spare()
    bucket.reserve()
    bucket.reserve()
    assert not bucket.has_spare()
    clock.now += 0.1
    assert bucket.has_spare()
    bucket.pause(1)
    assert not bucket.has_spare()


def test_a_pause_holds_back_callers_who_have_tokens():
    clock = Clock()
    bucket = TokenBucket(rate=10, burst=5, clock=clock)
    bucket.pause(7)
    assert bucket.reserve() == 7
    clock.now += 7
    assert bucket.reserve() == 0


def test_a_shorter_pause_never_cuts_a_longer_one():
    bucket = TokenBucket(rate=10, burst=5, clock=Clock())
    bucket.pause(30)
    bucket.pause(1)
    assert bucket.reserve() == 30


async def test_a_pause_that_comes_while_waiting_is_kept_too():
    clock = Clock()
    bucket = TokenBucket(rate=1000, burst=1, clock=clock)
    bucket.reserve()
    bucket.pause(0.001)
    clock.now += 0.001
    await bucket.take()
    assert bucket.reserve() > 0


class Transport:
    """Takes every call."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    async def send(self, _method: str, _path: str, *, body: dict, **_: object) -> dict:
        self.sent.append(body["type"])
        return {}


async def test_an_event_that_only_informs_is_dropped_while_writes_queue_and_a_warning_waits():
    transport, bucket = Transport(), TokenBucket(rate=1000, burst=1)
    cluster = KubernetesCluster(transport, writes=bucket)  # type: ignore[arg-type]
    event = {"metadata": {"namespace": "ml"}}
    await cluster.post_event(event | {"type": "Normal"})
    for _ in range(20):
        bucket.reserve()
    with pytest.raises(ThrottledError):
        await cluster.post_event(event | {"type": "Normal"})
    await cluster.post_event(event | {"type": "Warning"})
    assert transport.sent == ["Normal", "Warning"]


async def test_a_write_that_had_to_wait_is_not_sent_by_who_leads_no_more():
    transport = Transport()
    cluster = KubernetesCluster(transport, writes=TokenBucket(1000, 1))  # type: ignore[arg-type]

    def must_lead() -> None:
        raise LeadershipLostError("the Lease was not renewed in time")

    cluster.guard(must_lead)
    with pytest.raises(LeadershipLostError):
        await cluster.post_event({"metadata": {"namespace": "ml"}, "type": "Warning"})
    assert transport.sent == []
