"""Health: an operator that hears nothing is restarted, one whose API server is down is not."""

from __future__ import annotations

import aiohttp
import pytest

from finetune_operator.health import ANSWER_SECONDS, OLDEST_SECONDS, SILENCE_SECONDS, Health
from finetune_operator.observed import Key
from finetune_operator.work_queue import WorkQueue


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_process_that_hears_and_works_is_healthy(clock):
    health = Health(WorkQueue(clock), clock=clock)
    note = health.heard("pods")
    clock.now += SILENCE_SECONDS + 1
    note()
    health.answered()
    assert health.complaints() == []


def test_a_silent_watch_is_a_complaint_while_the_server_answers(clock):
    health = Health(WorkQueue(clock), clock=clock)
    health.heard("pods")
    clock.now += SILENCE_SECONDS + 1
    health.answered()
    assert len(health.complaints()) == 1
    assert "pods" in health.complaints()[0]


def test_a_silent_watch_of_one_namespace_is_not_hidden_by_others(clock):
    health = Health(WorkQueue(clock), clock=clock)
    health.heard("pods", "ml")
    clock.now += SILENCE_SECONDS + 1
    health.heard("pods", "nlp")
    health.answered()
    assert len(health.complaints()) == 1


def test_nobody_is_restarted_for_silence_while_the_server_answers_nothing(clock):
    health = Health(WorkQueue(clock), is_deaf=lambda: True, clock=clock)
    health.heard("pods")
    clock.now += max(SILENCE_SECONDS, ANSWER_SECONDS) + 1
    assert health.complaints() == []


def test_a_deaf_watch_found_by_the_audit_is_a_complaint(clock):
    health = Health(WorkQueue(clock), is_deaf=lambda: True, clock=clock)
    health.answered()
    assert health.complaints() == ["the audit found a deaf watch"]


def test_a_key_that_nobody_takes_is_a_complaint_even_without_a_server(clock):
    queue = WorkQueue(clock)
    health = Health(queue, clock=clock)
    queue.add(Key("Dataset", "ml", "faq"))
    clock.now += OLDEST_SECONDS + 1
    assert len(health.complaints()) == 1


async def test_the_port_tells_life_readiness_and_metrics(clock):
    health = Health(WorkQueue(clock), is_deaf=lambda: True, clock=clock)
    health.heard("pods")
    runner = await health.serve("127.0.0.1", 0)
    _, port = runner.addresses[0]
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            assert (await session.get("/livez")).status == 500
            assert (await session.get("/readyz")).status == 503
            health.is_ready = True
            assert (await session.get("/readyz")).status == 200
            text = await (await session.get("/metrics")).text()
    finally:
        await runner.cleanup()
    assert 'finetune_operator_watch_age_seconds{resource="pods"}' in text
    assert "finetune_operator_queue_depth 0.0" in text
