"""Losses and norms of recent steps on their way from device to host; nobody waits for them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

STEPS_AHEAD = 2
"""How many steps the host may be ahead of a GPU; on CPU a step is done when it returns."""


@dataclass(frozen=True)
class StepValues:
    """Loss (nats per supervised token of the whole step) and norm before clipping."""

    step: int
    loss: float
    norm: float
    router: float | None = None
    """router is the balancing loss of routed experts, before its coefficient."""

    @property
    def finite(self) -> bool:
        """Tell whether the step moved the weights."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


class Ring:
    """Loss shares and norms of recent steps on their way to the host.

    Every rank has the norm, so it is read two steps late, the same two on all ranks: what is
    decided from it needs no talk. The loss shares are summed over ranks once per `every` steps,
    asynchronously, as one small vector, and read when they have come.
    """

    def __init__(self, every: int, *, distributed: bool) -> None:
        self._every, self._distributed = every, distributed
        self._flags: deque[_Late] = deque()
        self._norms: dict[int, float] = {}
        self._open: list[tuple[int, Tensor]] = []
        self._sent: deque[_Late] = deque()

    def close(self, step: int, losses: Tensor, norm: Tensor) -> None:
        """Take over shares of a step's losses and its gradient norm, all still on the device.

        `losses` is float32[1], or [2] with that of the router.
        """
        self._flags.append(_Late.of([step], norm.detach().float().reshape(1, 1)))
        self._open.append((step, losses))
        if len(self._open) >= self._every:
            self._send()

    def norms(self, *, all_of_them: bool = False) -> Iterator[tuple[int, float]]:
        """Yield (step, norm) of all but the last two steps, oldest first.

        Waits for the device: the host is never more than two steps ahead of it.
        """
        while self._flags:
            flag = self._flags[0]
            if flag.event is not None and not all_of_them and len(self._flags) <= STEPS_AHEAD:
                return
            for step, (norm,) in self._flags.popleft().read():
                self._norms[step] = norm
                yield step, norm

    def values(self, *, wait: bool = False) -> Iterator[StepValues]:
        """Yield what has arrived of the steps whose norms were read, oldest first.

        `wait` waits for it, so that all ranks read the same at the same step.
        """
        while self._sent and self._sent[0].last in self._norms:
            if not wait and not self._sent[0].arrived():
                return
            yield from self._came()

    def rest(self) -> Iterator[StepValues]:
        """Wait for everything whose norms were read; all ranks call it after the same step."""
        self._send()
        while self._sent:
            yield from self._came()

    def clear(self) -> None:
        """Wait for everything and drop it; all ranks call it after the same step."""
        for late in (*self._flags, *self._sent):
            list(late.read())
        self._flags.clear()
        self._sent.clear()

    def _came(self) -> Iterator[StepValues]:
        for step, (loss, *router) in self._sent.popleft().read():
            yield StepValues(step, loss, self._norms.pop(step), *router)

    def _send(self) -> None:
        if not self._open:
            return
        losses = torch.stack([losses for _, losses in self._open]).float()
        work = dist.all_reduce(losses, async_op=True) if self._distributed else None
        self._sent.append(_Late.of([step for step, _ in self._open], losses, work))
        self._open = []


@dataclass
class _Late:
    """A row of values per step; they may be read once `arrived`."""

    steps: list[int]
    values: Tensor
    work: dist.Work | None = None
    event: Any = None

    @classmethod
    def of(cls, steps: list[int], values: Tensor, work: dist.Work | None = None) -> _Late:
        """Return values on their way; those of a GPU are copied without the host waiting."""
        if not values.is_cuda:
            return cls(steps, values, work)
        if work is not None:
            work.wait()  # on CUDA this orders the streams; the host goes on
        host = torch.empty(values.shape, pin_memory=True)
        host.copy_(values, non_blocking=True)
        event: Any = torch.cuda.Event  # untyped in torch
        late = cls(steps, host, None, event())
        late.event.record()
        return late

    @property
    def last(self) -> int:
        """The newest step."""
        return self.steps[-1]

    def arrived(self) -> bool:
        """Ask, without waiting, whether the values may be read."""
        if self.event is not None:
            return bool(self.event.query())
        return self.work is None or self.work.is_completed()

    def read(self) -> Iterator[tuple[int, list[float]]]:
        """Wait if need be; return pairs of a step and its values."""
        if self.event is not None:
            self.event.synchronize()
        elif self.work is not None:
            self.work.wait()
        return zip(self.steps, self.values.tolist(), strict=True)
