"""Answers /livez, /readyz and /metrics on one port.

Being alive means hearing: an operator whose watches are silent is restarted, but only while the
API server answers other requests, so that an outage of the server restarts nobody.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from aiohttp import web

from finetune_operator import metrics
from finetune_operator.work_queue import WorkQueue

LAG_SECONDS = 5.0
SILENCE_SECONDS = 180.0
ANSWER_SECONDS = 15.0
OLDEST_SECONDS = 600.0
LOOK_SECONDS = 0.5


class Health:
    """Collects signs of life and judges them when asked."""

    def __init__(
        self, queue: WorkQueue, *, is_deaf: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._queue, self._is_deaf, self._clock = queue, is_deaf, clock
        self._heard: dict[tuple[str, str], float] = {}
        self._answered = clock()
        self._lag = 0.0
        self.is_ready = False
        """is_ready: after the start barrier, or as a standby that waits for the Lease."""

    def heard(self, resource: str, scope: str = "") -> Callable[[], None]:
        """Return what the informer of a namespace calls on every sign of life of its watch."""

        def note() -> None:
            self._heard[resource, scope] = self._clock()

        note()

        return note

    def answered(self) -> None:
        """Note that the API server answered a request just now."""
        self._answered = self._clock()

    async def sample_lag(self) -> None:
        """Measure how late the loop wakes this task, until cancelled."""
        while True:
            asked = self._clock()
            await asyncio.sleep(LOOK_SECONDS)
            self._lag = max(0.0, self._clock() - asked - LOOK_SECONDS)
            metrics.LOOP_LAG_SECONDS.observe(self._lag)

    def complaints(self) -> list[str]:
        """Return why this process should be restarted; empty if it should not."""
        found = []
        if self._lag > LAG_SECONDS:
            found.append(f"the event loop was {self._lag:.1f} s late")
        if self._queue.oldest_seconds() > OLDEST_SECONDS:
            found.append("the oldest key waits for more than 10 minutes")
        if self._clock() - self._answered < ANSWER_SECONDS:
            found += [
                f"the watch of {resource} was silent for {age:.0f} s"
                for resource, age in self._ages().items()
                if age > SILENCE_SECONDS
            ]
            if self._is_deaf():
                found.append("the audit found a deaf watch")
        return found

    async def serve(self, address: str, port: int) -> web.AppRunner:
        """Start answering; the caller cleans the returned runner up."""
        app = web.Application()
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, address or None, port).start()
        return runner

    async def _livez(self, _request: web.Request) -> web.Response:
        found = self.complaints()
        return web.Response(text="\n".join(found) or "ok", status=500 if found else 200)

    async def _readyz(self, _request: web.Request) -> web.Response:
        text = "ok" if self.is_ready else "the caches are not complete yet"
        return web.Response(text=text, status=200 if self.is_ready else 503)

    async def _metrics(self, _request: web.Request) -> web.Response:
        metrics.QUEUE_DEPTH.set(self._queue.depth())
        metrics.QUEUE_OLDEST_SECONDS.set(self._queue.oldest_seconds())
        for resource, age in self._ages().items():
            metrics.WATCH_AGE_SECONDS.labels(resource).set(age)
        body, content_type = metrics.exposition()
        return web.Response(body=body, headers={"Content-Type": content_type})

    def _ages(self) -> dict[str, float]:
        """Return the longest silence of each resource: one deaf watch is not hidden by others."""
        now, ages = self._clock(), dict[str, float]()
        for (resource, _), at in self._heard.items():
            ages[resource] = max(ages.get(resource, 0.0), now - at)
        return ages
