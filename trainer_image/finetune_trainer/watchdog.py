"""Heartbeats of ranks in shared memory, and the judgement that a rank hangs."""

from __future__ import annotations

import faulthandler
import mmap
import signal
import statistics
import struct
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from finetune_api.run_progress import SILENT_STEPS

FORM = struct.Struct("=dddQ")
STEPS_KEPT = 50


@dataclass(frozen=True)
class Pulse:
    """What a rank last told: monotonic times in seconds (0 = never) and its finished steps."""

    beat: float = 0.0
    step_time: float = 0.0
    median_step_seconds: float = 0.0
    steps: int = 0

    def hangs(self, now: float, limit_seconds: float) -> bool:
        """Tell whether the rank was silent longer than the limit and several of its own steps.

        A rank that never beat is still starting; the start deadline is its limit.
        """
        if not limit_seconds or not self.beat:
            return False
        return now - self.beat > max(limit_seconds, SILENT_STEPS * self.median_step_seconds)


class Heartbeat:
    """The rank's side: moves in every phase, costs a few stores to memory."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(FORM.size))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), FORM.size)
        self._steps, self._step_time = 0, 0.0
        self._seconds: deque[float] = deque(maxlen=STEPS_KEPT)

    def beat(self) -> None:
        """Tell that this rank does something."""
        FORM.pack_into(self._memory, 0, time.monotonic(), self._step_time, self.median, self._steps)

    def step_done(self, steps: int, seconds: float) -> None:
        """Tell that a step has ended, and how long it took."""
        self._seconds.append(seconds)
        self._steps, self._step_time = steps, time.monotonic()
        self.beat()

    @property
    def median(self) -> float:
        """Median seconds of the last steps; 0 before the first."""
        return statistics.median(self._seconds) if self._seconds else 0.0


def pulse(path: Path) -> Pulse:
    """Return what a rank last told; nothing yet when it has no file."""
    try:
        return Pulse(*FORM.unpack(path.read_bytes()))
    except (OSError, struct.error):
        return Pulse()


def answer_stack_requests() -> None:
    """Make this process write the stacks of all its threads to stderr on SIGUSR1."""
    faulthandler.register(signal.SIGUSR1, file=sys.stderr, all_threads=True, chain=False)
