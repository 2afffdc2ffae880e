"""After which steps a run evaluates and saves; pure, so all ranks agree without talking."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Cadence:
    """Points of a run; `done` counts finished steps, from 1. The last step is always a point."""

    steps_per_epoch: int
    total_steps: int
    evaluate_epochs: float = 0.0
    evaluate_steps: int = 0
    save_steps: int = 0

    def evaluates(self, done: int) -> bool:
        """Tell whether an evaluation is due after `done` steps."""
        every = self.evaluate_steps
        return (
            done == self.total_steps or bool(every and done % every == 0) or self._epoch_point(done)
        )

    def saves(self, done: int) -> bool:
        """Tell whether a checkpoint is due: epoch ends and evaluations always have one."""
        every = self.save_steps
        return (
            bool(every and done % every == 0)
            or done % self.steps_per_epoch == 0
            or self.evaluates(done)
        )

    def _epoch_point(self, done: int) -> bool:
        every, length = self.evaluate_epochs, self.steps_per_epoch
        if not every:
            return False
        whole, within = divmod(done, length)
        if every > 1:
            return within == 0 and whole % int(every) == 0
        if within == 0:
            return True
        # Points lie at ceil(j x every x length); only the nearest j can meet `within`.
        nearest = int(within / (every * length))
        return any(
            math.ceil(round(j * every * length, 6)) == within for j in (nearest, nearest + 1)
        )
