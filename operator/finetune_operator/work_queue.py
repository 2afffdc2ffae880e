"""Holds keys that need a step: each at most once, one worker per key, delays, two lanes.

A key is only a hint that something may have changed. Dropping the difference between one and
many hints is what keeps the operator's load independent of how chatty the cluster is.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from collections import deque
from collections.abc import Callable
from enum import IntEnum

from finetune_operator.errors import LONGEST_DELAY_SECONDS
from finetune_operator.observed import Key

URGENT_IN_A_ROW = 8
"""After so many urgent keys one patient key gets its turn, so that nothing starves."""


class Lane(IntEnum):
    """How soon a key gets a worker."""

    URGENT = 0
    """Spec changes, ends of pods, deletions."""
    PATIENT = 1
    """Progress, audit, the first list."""


class WorkQueue:
    """Keys waiting for a step. Made for one event loop; no method but `take` waits."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._clock, self._jitter = clock, jitter
        self._lanes: tuple[deque[Key], deque[Key]] = (deque(), deque())
        self._ready: dict[Key, tuple[Lane, float]] = {}
        self._running: set[Key] = set()
        self._again: dict[Key, Lane] = {}
        self._due: dict[Key, tuple[float, Lane]] = {}
        self._heap: list[tuple[float, Key]] = []
        self._failures: dict[Key, int] = {}
        self._urgent_served = 0
        self._is_open = self._is_closed = False
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Let workers have keys; before, they only gather (the start barrier)."""
        self._is_open = True
        self._wake.set()

    def add(self, key: Key, *, after_seconds: float = 0.0, lane: Lane = Lane.URGENT) -> None:
        """Ask for a step of `key`, now or later; the earliest of several delays wins."""
        if after_seconds > 0:
            self._add_later(key, self._clock() + after_seconds, lane)
        elif key in self._running:
            self._again[key] = min(lane, self._again.get(key, lane))
        else:
            self._add_now(key, lane)

    def close(self) -> None:
        """Hand out nothing more; every waiting worker gets None."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._wake.set()

    async def take(self) -> Key | None:
        """Wait for the next key; its step must end with `finished` or `failed`.

        None means that the queue was closed.
        """
        while not self._is_closed:
            self._admit_due()
            if self._is_open and (key := self._next()) is not None:
                self._running.add(key)
                return key
            self._wake.clear()
            await self._wake.wait()
        return None

    def finished(self, key: Key) -> None:
        """End a step without error: the key's delays begin anew."""
        self._failures.pop(key, None)
        self._release(key)

    def failed(self, key: Key, *, first_delay_seconds: float, least_seconds: float = 0.0) -> None:
        """End a step with an error and repeat it: doubling delays up to five minutes, ±20 %.

        A first delay of 0 repeats three times at once and then from one second.
        """
        self._failures[key] = count = self._failures.get(key, 0) + 1
        base = first_delay_seconds
        if base == 0:
            base, count = (0.0, 1) if count <= 3 else (1.0, count - 3)
        delay = min(LONGEST_DELAY_SECONDS, base * 2.0 ** min(count - 1, 20))
        self._release(key)
        self.add(key, after_seconds=max(least_seconds, delay * self._jitter(0.8, 1.2)))

    def depth(self) -> int:
        """Return how many keys are ready for a worker."""
        return len(self._ready)

    def oldest_seconds(self) -> float:
        """Return how long the oldest ready key has waited."""
        since = min((added for _, added in self._ready.values()), default=self._clock())
        return self._clock() - since

    def is_idle(self) -> bool:
        """Return whether nothing is ready or running; delayed keys do not count."""
        return not self._ready and not self._running

    def _add_now(self, key: Key, lane: Lane) -> None:
        known = self._ready.get(key)
        if known is None:
            self._due.pop(key, None)
            self._ready[key] = (lane, self._clock())
            self._lanes[lane].append(key)
        elif lane < known[0]:  # the entry left in the slower lane is skipped when met
            self._ready[key] = (lane, known[1])
            self._lanes[lane].append(key)
        self._wake.set()

    def _add_later(self, key: Key, due: float, lane: Lane) -> None:
        known = self._due.get(key)
        if known is not None and known[0] <= due:
            return
        self._due[key] = (due, lane)
        heapq.heappush(self._heap, (due, key))
        self._set_timer()

    def _admit_due(self) -> None:
        now = self._clock()
        while self._heap and self._heap[0][0] <= now:
            due, key = heapq.heappop(self._heap)
            entry = self._due.get(key)
            if entry is not None and entry[0] == due:  # not overtaken by an earlier add
                del self._due[key]
                self.add(key, lane=entry[1])
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._heap:
            wait = max(0.0, self._heap[0][0] - self._clock())
            self._timer = asyncio.get_running_loop().call_later(wait, self._wake.set)

    def _next(self) -> Key | None:
        order = (Lane.URGENT, Lane.PATIENT)
        if self._urgent_served >= URGENT_IN_A_ROW:
            order = (Lane.PATIENT, Lane.URGENT)
        for lane in order:
            while self._lanes[lane]:
                key = self._lanes[lane].popleft()
                if self._ready.get(key, (None,))[0] is lane:
                    del self._ready[key]
                    self._urgent_served = self._urgent_served + 1 if lane is Lane.URGENT else 0
                    return key
        return None

    def _release(self, key: Key) -> None:
        self._running.discard(key)
        if (lane := self._again.pop(key, None)) is not None:
            self._add_now(key, lane)
