"""Turns planned micro-batches into tensors, two steps ahead of the loop."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from finetune_trainer.losses import token_weight
from finetune_trainer.plan import Plan, Step
from finetune_trainer.segments import Layout
from finetune_trainer.token_cache import SUPERVISED, TokenCache

Item = TypeVar("Item")
AHEAD = 2


@dataclass(frozen=True)
class MicroBatch:
    """One forward and backward: samples end to end in one row, positions restart per sample."""

    step: int
    number: int
    """number within the step, the same at every world size; random streams are keyed by it."""
    tokens: Tensor
    positions: Tensor
    rows: Tensor
    """rows are the positions whose next token is supervised."""
    labels: Tensor
    weights: Tensor
    layout: Layout

    def to(self, device: torch.device) -> MicroBatch:
        """Return the micro-batch on a device; copies from pinned memory do not block."""
        moved = {
            name: getattr(self, name).to(device, non_blocking=True)
            for name in ("tokens", "positions", "rows", "labels", "weights")
        }
        return replace(self, **moved, layout=self.layout.to(device))


@dataclass(frozen=True)
class RankStep:
    """What one rank does in one step."""

    step: Step
    batches: tuple[MicroBatch, ...]


def micro_batch(
    cache: TokenCache, samples: Sequence[int], weight: float, *, step: int = 0, number: int = 0
) -> MicroBatch:
    """Return the samples as one row; without samples an empty one: one token, no supervised row.

    An empty micro-batch has a loss of exactly 0 that is connected to the graph, so a rank without
    data still joins every reduction.
    """
    spans = [(int(cache.offsets[i]), int(cache.offsets[i + 1])) for i in samples]
    if not spans:
        return _empty(step, number)
    tokens = np.concatenate([cache.tokens[start:end] for start, end in spans]).astype(np.int64)
    flags = np.concatenate([cache.flags[start:end] for start, end in spans]) & SUPERVISED
    bounds = np.cumsum([0, *(end - start for start, end in spans)])
    flags[bounds[:-1]] = 0
    labelled = np.flatnonzero(flags)
    positions = np.concatenate([np.arange(end - start) for start, end in spans])
    return MicroBatch(
        step=step,
        number=number,
        tokens=torch.from_numpy(tokens)[None],
        positions=torch.from_numpy(positions)[None],
        rows=torch.from_numpy(labelled - 1),
        labels=torch.from_numpy(tokens[labelled]),
        weights=torch.full((len(labelled),), weight, dtype=torch.float32),
        layout=_layout(bounds.tolist()),
    )


def rank_step(cache: TokenCache, plan: Plan, number: int, rank: int, world: int) -> RankStep:
    """Return a rank's micro-batches of a step; every rank gets equally many."""
    step = plan.step(number)
    weight = token_weight(step.supervised)
    hand = plan.hands(step, world)[rank]
    batches = tuple(
        micro_batch(
            cache,
            () if one is None else step.micro_batches[one],
            weight,
            step=number,
            number=len(step.micro_batches) if one is None else one,
        )
        for one in hand
    )
    return RankStep(step, batches)


class Prefetch(Generic[Item]):
    """Builds items in one background thread, at most two ahead of their use."""

    def __init__(self, build: Callable[[int], Item], numbers: Iterable[int]) -> None:
        self._build, self._numbers = build, numbers
        self._queue: queue.Queue[Item | BaseException | None] = queue.Queue(AHEAD)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="prefetch", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Item]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        """Stop building; what was built is dropped."""
        self._closed.set()

    def _fill(self) -> None:
        try:
            for number in self._numbers:
                self._put(self._build(number))
                if self._closed.is_set():
                    return
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: Item | BaseException | None) -> None:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=0.2)
            except queue.Full:
                continue
            return


def _empty(step: int, number: int) -> MicroBatch:
    none = torch.zeros(0, dtype=torch.int64)
    token = torch.zeros(1, 1, dtype=torch.int64)
    return MicroBatch(step, number, token, token, none, none, none.float(), _layout([0, 1]))


def _layout(bounds: Sequence[int]) -> Layout:
    longest = max(end - start for start, end in pairwise(bounds))
    return Layout(tuple(bounds), torch.tensor(bounds, dtype=torch.int32), longest)
