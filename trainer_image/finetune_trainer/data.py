"""Turns planned micro-batches into tensors, two steps ahead of the loop."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate, pairwise
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune_trainer.losses import RowWeights
from finetune_trainer.plan import Plan, Step
from finetune_trainer.segments import Layout
from finetune_trainer.token_cache import SUPERVISED

Item = TypeVar("Item")
AHEAD = 2


class Samples(Protocol):
    """The samples of one epoch."""

    def sample(self, number: int) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
        """Return token ids and flags; the first token has no label."""
        ...


class Split(Protocol):
    """Samples that may differ from epoch to epoch."""

    def of(self, epoch: int) -> Samples:
        """Return the samples of an epoch."""
        ...


@dataclass(frozen=True)
class MicroBatch:
    """One forward and backward. Positions restart per sample.

    Packed: all samples end to end, tokens and positions [1, T], with a layout. Padded: a sample per
    row, tokens and positions [B, T], zeros behind it; positions go on there, or the library would
    take them for packed rows and build a mask.
    """

    step: int
    number: int
    """number within the step, the same at every world size; random streams are keyed by it."""
    tokens: Tensor
    positions: Tensor
    rows: Tensor
    """rows are the flat positions, of B x T, whose next token is supervised."""
    labels: Tensor
    weights: Tensor
    lengths: Tensor
    """lengths of the samples in tokens"""
    layout: Layout | None
    share: float = 1.0
    """share of the step's tokens; 0 for an empty one."""

    @property
    def real(self) -> Tensor | None:
        """Return bool[B, T], false for padding; None where no row has any."""
        if self.layout is not None:
            return None
        places = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        return places < self.lengths[:, None]

    def to(self, device: torch.device) -> MicroBatch:
        """Return the micro-batch on a device; copies from pinned memory do not block."""
        return self._each(lambda one: one.to(device, non_blocking=True))

    def pinned(self) -> MicroBatch:
        """Return the micro-batch in memory that a device copies from without the host."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> MicroBatch:
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        moved: dict[str, Any] = {
            name: change(value) for name, value in values.items() if isinstance(value, Tensor)
        }
        if self.layout is not None:
            bounds = change(self.layout.bounds_tensor)
            moved["layout"] = replace(self.layout, bounds_tensor=bounds)
        return replace(self, **moved)


@dataclass(frozen=True)
class RankStep:
    """What one rank does in one step."""

    step: Step
    batches: tuple[MicroBatch, ...]


def micro_batch(
    texts: Samples,
    samples: Sequence[int],
    weights: RowWeights | float,
    *,
    step: int = 0,
    number: int = 0,
    padded: bool = False,
) -> MicroBatch:
    """Return the samples as one row, or as padded rows; `weights` are those of supervised rows.

    Without samples it is an empty one: one token, no supervised row. Its loss is exactly 0 but
    connected to the graph, so a rank without data still joins every reduction.
    """
    found = [texts.sample(i) for i in samples] or [EMPTY]
    lengths = [len(tokens) for tokens, _ in found]
    stride = max(lengths)
    starts = [stride * row for row in range(len(found))] if padded else _bounds(lengths)[:-1]
    shape = (len(found), stride) if padded else (1, sum(lengths))
    positions = [np.arange(stride if padded else one) for one in lengths]
    labelled = [np.flatnonzero(flags & SUPERVISED) for _, flags in found]
    offsets = np.repeat(starts, [len(one) for one in labelled])
    return MicroBatch(
        step=step,
        number=number,
        tokens=_tokens([tokens for tokens, _ in found], starts, shape),
        positions=torch.from_numpy(np.concatenate(positions)).view(shape),
        rows=torch.from_numpy(np.concatenate(labelled) + offsets.astype(np.int64) - 1),
        labels=_labels(found, labelled),
        weights=_weights(weights, [len(one) for one in labelled]),
        lengths=torch.tensor(lengths),
        layout=None if padded else _layout(_bounds(lengths)),
        share=_share(weights, sum(lengths) if samples else 0),
    )


def rank_step(texts: Split, plan: Plan, number: int, rank: int, world: int) -> RankStep:
    """Return a rank's micro-batches of a step, in pinned memory where there is a GPU.

    Every rank gets equally many.
    """
    step, settings = plan.step(number), plan.settings
    weights = RowWeights(settings.averaging, step.supervised, len(step.samples), step.tokens)
    batches = (
        micro_batch(
            texts.of(step.epoch),
            () if one is None else step.micro_batches[one],
            weights,
            step=number,
            number=len(step.micro_batches) if one is None else one,
            padded=settings.padded,
        )
        for one in plan.hands(step, world)[rank]
    )
    pin = torch.cuda.is_available()
    return RankStep(step, tuple(one.pinned() if pin else one for one in batches))


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


EMPTY = (np.zeros(1, np.uint32), np.zeros(1, np.uint8))
"""The token of an empty micro-batch."""


def _bounds(lengths: Sequence[int]) -> list[int]:
    return list(accumulate(lengths, initial=0))


def _tokens(
    samples: Sequence[NDArray[np.uint32]], starts: Sequence[int], shape: tuple[int, int]
) -> Tensor:
    tokens = np.zeros(shape[0] * shape[1], np.int64)
    for sample, start in zip(samples, starts, strict=True):
        tokens[start : start + len(sample)] = sample
    return torch.from_numpy(tokens).view(shape)


def _labels(
    found: Sequence[tuple[NDArray[np.uint32], NDArray[np.uint8]]],
    labelled: Sequence[NDArray[np.int64]],
) -> Tensor:
    chosen = [tokens[at] for (tokens, _), at in zip(found, labelled, strict=True)]
    return torch.from_numpy(np.concatenate(chosen).astype(np.int64))


def _weights(weights: RowWeights | float, rows: Sequence[int]) -> Tensor:
    of_sample = [
        weights.of(count) if isinstance(weights, RowWeights) else weights for count in rows
    ]
    return torch.from_numpy(np.repeat(np.array(of_sample, np.float32), rows))


def _share(weights: RowWeights | float, tokens: int) -> float:
    if isinstance(weights, RowWeights):
        return weights.share(tokens)
    return float(tokens > 0)


def _layout(bounds: Sequence[int]) -> Layout:
    longest = max(end - start for start, end in pairwise(bounds))
    return Layout(tuple(bounds), torch.tensor(bounds, dtype=torch.int32), longest)
