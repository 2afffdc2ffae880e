"""Keeps the whole process within a rate of API calls, and pauses it when the server asks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class TokenBucket:
    """Grants calls at `rate` per second with bursts up to `burst`, in the order of asking."""

    def __init__(
        self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._tokens = burst
        self._refilled_at = clock()
        self._paused_until = 0.0

    def reserve(self) -> float:
        """Take one token and return the seconds to wait before using it."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._refilled_at) * self._rate)
        self._refilled_at = now
        self._tokens -= 1
        return max(0.0, -self._tokens / self._rate, self._paused_until - now)

    def has_spare(self) -> bool:
        """Tell whether a call could be made at once, with nobody waiting for the token."""
        now = self._clock()
        tokens = self._tokens + (now - self._refilled_at) * self._rate
        return tokens >= 1 and now >= self._paused_until

    def pause(self, seconds: float) -> None:
        """Hold every caller back for `seconds`, those already waiting included."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)

    async def take(self) -> None:
        """Return when the caller may make one call."""
        wait = self.reserve()
        while wait > 0:
            await asyncio.sleep(wait)
            wait = self._paused_until - self._clock()
