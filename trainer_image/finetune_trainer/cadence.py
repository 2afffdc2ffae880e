"""After which steps a run evaluates and saves; pure, so all ranks agree without talking."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Cadence:
    """Points of a run; `done` counts finished steps, from 1. The last step is always a point."""

    epochs: Callable[[int], float]
    """epochs gives the epochs done, as a fraction, after so many steps."""
    total_steps: int
    evaluate_epochs: float = 0.0
    evaluate_steps: int = 0
    save_steps: int = 0
    resumable: bool = True
    """resumable runs save at points; others once, after the last step"""

    def evaluates(self, done: int) -> bool:
        """Tell whether an evaluation is due after `done` steps."""
        every = self.evaluate_steps
        return (
            done == self.total_steps or bool(every and done % every == 0) or self._epoch_point(done)
        )

    def saves(self, done: int) -> bool:
        """Tell whether a checkpoint is due: epoch ends and evaluations always have one."""
        if not self.resumable or done == self.total_steps:
            return done == self.total_steps
        every = self.save_steps
        return (
            bool(every and done % every == 0)
            or float(self.epochs(done)).is_integer()
            or self.evaluates(done)
        )

    def _epoch_point(self, done: int) -> bool:
        every, now = self.evaluate_epochs, self.epochs(done)
        if not every:
            return False
        if float(now).is_integer():
            return every <= 1 or int(now) % int(every) == 0
        # A point lies at ceil(j x every x steps of the epoch): where a multiple of `every` is
        # passed, or met but for the noise of floats. Every epoch counts anew.
        first = math.floor(now)
        before = max(first, self.epochs(done - 1)) if done > 1 else first
        passed = (math.floor(round((at - first) / every, 6)) for at in (now, before))
        return every <= 1 and next(passed) > next(passed)
