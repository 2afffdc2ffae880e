"""How long each phase of a step took on the device, known late and without waiting."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch

DATA, FORWARD, BACKWARD, OPTIMIZER = "data", "forward", "backward", "optimizer"
PHASES = (DATA, FORWARD, BACKWARD, OPTIMIZER)


class StepClock:
    """Marks the ends of phases on one line of time: each mark closes what the last one began.

    On a GPU a mark is an event in its stream, elsewhere the time of the host.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_device = device.type == "cuda"
        self._last = self._now()
        self._open: list[tuple[str, Any, Any]] = []
        self._closed: deque[list[tuple[str, Any, Any]]] = deque()

    def begin(self) -> None:
        """Begin anew: what happened since the last mark belongs to no step."""
        self._last = self._now()

    def mark(self, phase: str) -> None:
        """Say that a phase has just been issued."""
        now = self._now()
        self._open.append((phase, self._last, now))
        self._last = now

    def close(self) -> None:
        """Say that the step has been issued."""
        self._closed.append(self._open)
        self._open = []

    def ready(self) -> Iterator[dict[str, float]]:
        """Yield seconds by phase of the steps that the device has finished, oldest first."""
        while self._closed and self._passed(self._closed[0][-1][2]):
            seconds = dict.fromkeys(PHASES, 0.0)
            for phase, first, last in self._closed.popleft():
                seconds[phase] += self._between(first, last)
            yield seconds

    def _now(self) -> Any:
        if not self._on_device:
            return time.perf_counter()
        event: Any = torch.cuda.Event  # untyped in torch
        found = event(enable_timing=True)
        found.record()
        return found

    def _passed(self, mark: Any) -> bool:
        return bool(mark.query()) if self._on_device else True

    def _between(self, first: Any, last: Any) -> float:
        return float(first.elapsed_time(last)) / 1000 if self._on_device else last - first
