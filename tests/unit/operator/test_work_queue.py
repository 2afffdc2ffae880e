"""The work queue: hints are merged, keys never overlap, delays hold, nothing is lost."""

from __future__ import annotations

import asyncio
import random

import pytest

from finetune_operator.observed import Key
from finetune_operator.work_queue import URGENT_IN_A_ROW, Lane, WorkQueue

A, B = Key("Dataset", "ml", "a"), Key("Dataset", "ml", "b")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock | None = None) -> WorkQueue:
    queue = WorkQueue(clock or Clock(), jitter=lambda low, high: 1.0)
    queue.open()
    return queue


async def ready(queue: WorkQueue) -> list[Key]:
    """Take and finish everything that is ready."""
    taken = []
    while True:
        try:
            key = await asyncio.wait_for(queue.take(), 0.01)
        except TimeoutError:
            return taken
        taken.append(key)
        queue.finished(key)


async def test_a_key_added_many_times_is_taken_once():
    queue = opened()
    for _ in range(5):
        queue.add(A)
        queue.add(A, lane=Lane.PATIENT)
    assert await ready(queue) == [A]


async def test_a_key_added_during_its_step_runs_again_but_not_before_its_end():
    queue = opened()
    queue.add(A)
    assert await queue.take() == A
    queue.add(A)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.take(), 0.01)
    queue.finished(A)
    assert await ready(queue) == [A]


async def test_before_the_barrier_opens_no_key_is_handed_out():
    queue = WorkQueue(Clock())
    queue.add(A)
    assert await ready(queue) == []
    queue.open()
    assert await ready(queue) == [A]


async def test_of_two_delays_the_earlier_wins_and_the_later_is_void():
    clock = Clock()
    queue = opened(clock)
    queue.add(A, after_seconds=60)
    queue.add(A, after_seconds=5)
    clock.now += 6
    assert await ready(queue) == [A]
    clock.now += 100
    assert await ready(queue) == []


async def test_an_add_without_delay_overtakes_a_delayed_one():
    clock = Clock()
    queue = opened(clock)
    queue.add(A, after_seconds=60)
    queue.add(A)
    assert await ready(queue) == [A]
    clock.now += 100
    assert await ready(queue) == []


async def test_a_delayed_key_wakes_a_waiting_worker():
    queue = WorkQueue()
    queue.open()
    waiting = asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    queue.add(A, after_seconds=0.01)
    assert await asyncio.wait_for(waiting, 5) == A


async def test_failures_double_the_delay_up_to_five_minutes_and_success_resets_it():
    clock = Clock()
    queue = opened(clock)
    waits = []
    queue.add(A)
    for _ in range(11):
        assert await queue.take() == A
        queue.failed(A, first_delay_seconds=1.0)
        due = queue._heap[0][0]
        waits.append(due - clock.now)
        clock.now = due
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    await queue.take()
    queue.finished(A)
    queue.add(A)
    await queue.take()
    queue.failed(A, first_delay_seconds=1.0)
    assert queue._heap[0][0] - clock.now == 1


async def test_a_conflict_is_repeated_at_once_three_times_and_then_with_delay():
    clock = Clock()
    queue = opened(clock)
    queue.add(A)
    for _ in range(4):
        assert await asyncio.wait_for(queue.take(), 1) == A
        queue.failed(A, first_delay_seconds=0.0)
    assert await ready(queue) == []
    clock.now += 1
    assert await ready(queue) == [A]


async def test_what_the_server_asks_to_wait_is_the_least_delay():
    clock = Clock()
    queue = opened(clock)
    queue.add(A)
    await queue.take()
    queue.failed(A, first_delay_seconds=1.0, least_seconds=20)
    clock.now += 19
    assert await ready(queue) == []
    clock.now += 1
    assert await ready(queue) == [A]


async def test_urgent_keys_go_first_and_patient_ones_still_get_their_turn():
    queue = opened()
    slow = Key("Dataset", "ml", "slow")
    queue.add(slow, lane=Lane.PATIENT)
    urgent = [Key("Dataset", "ml", f"u{i}") for i in range(URGENT_IN_A_ROW + 2)]
    for key in urgent:
        queue.add(key)
    taken = await ready(queue)
    assert taken == [*urgent[:URGENT_IN_A_ROW], slow, *urgent[URGENT_IN_A_ROW:]]


async def test_a_patient_key_becomes_urgent_when_it_is_added_so():
    queue = opened()
    queue.add(A, lane=Lane.PATIENT)
    queue.add(B, lane=Lane.PATIENT)
    queue.add(B)
    assert await ready(queue) == [B, A]


async def test_a_closed_queue_sends_every_worker_home():
    queue = opened()
    workers = [asyncio.create_task(queue.take()) for _ in range(3)]
    await asyncio.sleep(0)
    queue.close()
    assert await asyncio.gather(*workers) == [None, None, None]


@pytest.mark.parametrize("seed", range(20), ids="shuffle {}".format)
async def test_however_hints_are_shuffled_doubled_or_dropped_each_state_is_seen_and_alone(seed):
    """Four workers, keys whose 'state' changes: the last step of a key sees its last state."""
    chance, queue = random.Random(seed), opened(asyncio.get_running_loop().time)
    keys = [Key("Dataset", "ml", str(number)) for number in range(5)]
    state, seen, running = dict.fromkeys(keys, 0), dict.fromkeys(keys, 0), set()

    async def work() -> None:
        while (key := await queue.take()) is not None:
            assert key not in running
            running.add(key)
            seen[key] = state[key]
            await asyncio.sleep(chance.choice([0, 0.001]))
            running.discard(key)
            if chance.random() < 0.1:
                queue.failed(key, first_delay_seconds=0.001)
            else:
                queue.finished(key)

    workers = [asyncio.create_task(work()) for _ in range(4)]
    for _ in range(100):
        key = chance.choice(keys)
        state[key] += 1
        for _ in range(chance.choice([1, 1, 2])):
            queue.add(key, lane=chance.choice(list(Lane)))
        if chance.random() < 0.3:
            await asyncio.sleep(0)
    while not queue.is_idle():  # noqa: ASYNC110 - the queue has no event for it
        await asyncio.sleep(0.001)
    queue.close()
    await asyncio.gather(*workers)
    assert seen == state
