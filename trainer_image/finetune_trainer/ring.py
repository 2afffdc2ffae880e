"""Loss and norm of recent steps on their way from the device to the host; nobody waits for them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from finetune_trainer.errors import NotFiniteError


@dataclass
class _Sent:
    """Values of some steps on their way; `values` may be read once `arrived`."""

    steps: list[int]
    values: Tensor
    work: dist.Work | None = None
    event: Any = None

    def arrived(self) -> bool:
        """Ask, without waiting, whether the values may be read."""
        if self.event is not None:
            return bool(self.event.query())
        return self.work is None or self.work.is_completed()

    def wait(self) -> None:
        """Wait until the values may be read."""
        if self.event is not None:
            self.event.synchronize()
        elif self.work is not None:
            self.work.wait()


class Ring:
    """Loss shares and norms of recent steps on their way to the host; nobody waits for them.

    With several ranks the shares collected since the last report are summed once per `every`
    steps, asynchronously, as one small vector: between reports a step has no collective besides
    its gradients'.
    """

    def __init__(self, every: int, *, distributed: bool) -> None:
        self._every, self._distributed = every, distributed
        self._open: list[tuple[int, Tensor, Tensor]] = []
        self._sent: deque[_Sent] = deque()

    def close(self, step: int, loss: Tensor, norm: Tensor) -> None:
        """Take over a step's loss share and gradient norm, both still on the device."""
        self._open.append((step, loss.detach(), norm.detach()))
        if len(self._open) >= self._every:
            self.send()

    def send(self) -> None:
        """Start the way of all collected values; all ranks call it after the same step."""
        if not self._open:
            return
        losses = torch.stack([loss for _, loss, _ in self._open]).float()
        norms = torch.stack([norm for _, _, norm in self._open]).float()
        # The norm is every rank's already; summed like the shares it needs no vector of its own.
        values = torch.stack((losses, norms / self._ranks))
        sent = _Sent([step for step, _, _ in self._open], values)
        self._open = []
        if self._distributed:
            sent.work = dist.all_reduce(values, async_op=True)
        if values.is_cuda:
            _copy_to_host(sent)
        self._sent.append(sent)

    def ready(self) -> Iterator[StepValues]:
        """Yield what has arrived, oldest first.

        Raises NotFiniteError for the first step that diverged.
        """
        while self._sent and self._sent[0].arrived():
            yield from _read(self._sent.popleft())

    def drain(self) -> Iterator[StepValues]:
        """Wait for everything and yield it: a checkpoint never holds unchecked weights."""
        self.send()
        while self._sent:
            self._sent[0].wait()
            yield from _read(self._sent.popleft())

    @property
    def _ranks(self) -> int:
        return dist.get_world_size() if self._distributed else 1


@dataclass(frozen=True)
class StepValues:
    """Loss (nats per supervised token of the whole step) and norm before clipping."""

    step: int
    loss: float
    norm: float


def _copy_to_host(sent: _Sent) -> None:
    if sent.work is not None:
        sent.work.wait()  # on CUDA this orders the streams; the host goes on
    host = torch.empty(sent.values.shape, pin_memory=True)
    host.copy_(sent.values, non_blocking=True)
    event: Any = torch.cuda.Event  # untyped in torch
    sent.values, sent.event = host, event()
    sent.event.record()


def _read(sent: _Sent) -> Iterator[StepValues]:
    for step, loss, norm in zip(sent.steps, *sent.values.tolist(), strict=True):
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NotFiniteError(
                f"step {step + 1}: loss {loss}, gradient norm {norm}; the update was not applied. "
                "Lower training.learningRate, clip, or look at the data of this step",
                remedy="lower training.learningRate or training.maxGradNorm",
            )
        yield StepValues(step, loss, norm)
