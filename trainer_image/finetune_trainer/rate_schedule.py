"""The learning rate as a pure function of the step, so that resuming cannot bend it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from finetune_api.training_settings import Scheduler


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to `peak`, then a shape down to `floor` x peak at step `total`."""

    peak: float
    total: int
    warmup: int
    shape: Scheduler
    floor: float = 0.0
    cycles: int = 1
    """cycles of CosineWithRestarts"""
    decay: float = 0.1
    """decay is WarmupStableDecay's share of the steps after warm-up"""

    def rate(self, step: int) -> float:
        """Return the rate of update `step`, counted from 0."""
        return self.peak * self.factor(step)

    def factor(self, step: int) -> float:
        """Return rate / peak of update `step`; parameter groups multiply it by their own peaks.

        The peak is the first update after warm-up; no update has rate 0 but for the shape's end.
        """
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        return self.floor + (1 - self.floor) * self._fall(step)

    def _fall(self, step: int) -> float:
        done = (step - self.warmup) / max(1, self.total - self.warmup)
        match self.shape:
            case Scheduler.LINEAR:
                return 1 - done
            case Scheduler.COSINE:
                return (1 + math.cos(math.pi * done)) / 2
            case Scheduler.COSINE_WITH_RESTARTS:
                return (1 + math.cos(math.pi * math.fmod(self.cycles * done, 1.0))) / 2
            case Scheduler.INVERSE_SQRT:
                return math.sqrt((self.warmup + 1) / (step + 1))
            case Scheduler.WARMUP_STABLE_DECAY:
                return min(1.0, (1 - done) / self.decay)
        return 1.0
