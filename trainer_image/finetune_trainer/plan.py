"""Decides what every rank does in every step, as a pure function of lengths and a seed.

No padding, no collective for token counts and an exact resume after any step follow from it:
order, packing and dealing can be computed again by anyone, for any step, at any world size.
All arithmetic is on integers and no library shuffles, since their streams change with releases.
"""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from heapq import heapreplace
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.errors import ConfigurationError

VERSION = 1
WORD = (1 << 64) - 1
GAMMA, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB

ORDER, INIT, DROPOUT, AUGMENT, NOISE, GENERATE = range(1, 7)
"""One random stream per purpose."""

Order = NDArray[np.int64]


def mix(*words: int) -> int:
    """Return 64 bits that depend on every word: SplitMix64's finaliser, chained."""
    h = 0
    for word in words:
        h = (h + word + GAMMA) & WORD
        h = ((h ^ h >> 30) * FIRST) & WORD
        h = ((h ^ h >> 27) * SECOND) & WORD
        h ^= h >> 31
    return h


def order(count: int, seed: int, epoch: int) -> Order:
    """Return the samples 0…count-1 in the order of an epoch: sorted by `mix(seed, …, sample)`."""
    h = np.full(count, mix(seed, ORDER, epoch), np.uint64)
    h += np.arange(count, dtype=np.uint64)
    h += np.uint64(GAMMA)
    h = (h ^ h >> np.uint64(30)) * np.uint64(FIRST)
    h = (h ^ h >> np.uint64(27)) * np.uint64(SECOND)
    h ^= h >> np.uint64(31)
    return np.argsort(h, kind="stable")


def cut(
    order: Sequence[int], lengths: Sequence[int], *, samples: int = 0, tokens: int = 0
) -> list[list[int]]:
    """Return an epoch's steps: runs of the order of `samples` samples, or of at most `tokens`."""
    steps: list[list[int]] = [[]]
    load = 0
    for i in order:
        if (samples and len(steps[-1]) == samples) or (tokens and load + lengths[i] > tokens):
            steps.append([])
            load = 0
        steps[-1].append(i)
        load += lengths[i]
    return steps


def pack(step: Sequence[int], lengths: Sequence[int], budget: int, grain: int) -> list[list[int]]:
    """Return micro-batches of at most `budget` tokens, their number a multiple of `grain`.

    The longest sample goes first, always into the emptiest bin; bins may stay empty.
    """
    todo = sorted(step, key=lambda i: (-lengths[i], i))
    count = grain * -(-sum(lengths[i] for i in step) // (budget * grain))
    while (bins := _filled(todo, lengths, budget, count)) is None:
        count += grain
    return bins


def _filled(
    todo: Sequence[int], lengths: Sequence[int], budget: int, count: int
) -> list[list[int]] | None:
    bins: list[list[int]] = [[] for _ in range(count)]
    loads = [(0, number) for number in range(count)]
    for i in todo:
        load, number = loads[0]
        if load + lengths[i] > budget:
            return None
        heapreplace(loads, (load + lengths[i], number))
        bins[number].append(i)
    return bins


def deal(costs: Sequence[int], world: int) -> list[list[int | None]]:
    """Return per rank the numbers of its micro-batches, equally many; None is an empty one.

    Rounds of equally heavy micro-batches are dealt, the heaviest first: ranks that run in
    lock-step wait for the slowest of a round, and the memory peak comes first.
    """
    heaviest = sorted(range(len(costs)), key=lambda number: (-costs[number], number))
    ranked = [*heaviest, *[None] * (-len(costs) % world)]
    loads = [0] * world
    hands: list[list[int | None]] = [[] for _ in range(world)]
    for first in range(0, len(ranked), world):
        lightest = sorted(range(world), key=lambda rank: (loads[rank], rank))
        for rank, number in zip(lightest, ranked[first : first + world], strict=True):
            hands[rank].append(number)
            loads[rank] += 0 if number is None else costs[number]
    return hands


@dataclass(frozen=True)
class PlanSettings:
    """What decides the steps. Either `samples` or `tokens` per step, `epochs` or `max_steps`.

    `budget` (tokens of a micro-batch), `grain` (ranks of the first attempt) and the costs change
    speed and memory, never which samples form a step.
    """

    seed: int
    budget: int
    samples: int = 0
    tokens: int = 0
    epochs: float = 1.0
    max_steps: int = 0
    drop_last: bool = False
    grain: int = 1
    token_cost: int = 1
    square_cost: int = 0
    """costs of a token and of a squared segment length in `deal`, in any common unit"""


@dataclass(frozen=True)
class Step:
    """One optimizer update, counted from 0 over all epochs."""

    number: int
    epoch: int
    samples: tuple[int, ...]
    tokens: int
    supervised: int
    micro_batches: tuple[tuple[int, ...], ...]


class Plan:
    """The steps of a run over samples with known lengths and numbers of supervised rows."""

    def __init__(
        self, lengths: Sequence[int], supervised: Sequence[int], settings: PlanSettings
    ) -> None:
        self.lengths = [int(length) for length in lengths]
        self.supervised = [int(rows) for rows in supervised]
        self.settings = settings
        self._check()
        self._order = lru_cache(maxsize=2)(
            lambda epoch: order(len(self.lengths), settings.seed, epoch).tolist()
        )

    @cached_property
    def steps_per_epoch(self) -> int:
        """Number of steps of the first epoch; every epoch's where a step is counted in samples."""
        return self._epoch_steps(0)

    @cached_property
    def total_steps(self) -> int:
        """Number of steps of the run; the last, fractional epoch ends after its share."""
        if self.settings.max_steps:
            return self.settings.max_steps
        whole = int(self.settings.epochs)
        # Only the float noise of values such as 3 x 0.1 is rounded away.
        share = round(self.settings.epochs - whole, 9)
        steps = sum(self._epoch_steps(epoch) for epoch in range(whole))
        return steps + (math.ceil(round(share * self._epoch_steps(whole), 6)) if share else 0)

    def step(self, number: int) -> Step:
        """Return a step; it needs no other step, whatever its number."""
        epoch, within = self._position(number)
        samples = self._samples(epoch, within)
        bins = pack(samples, self.lengths, self.settings.budget, self.settings.grain)
        return Step(
            number=number,
            epoch=epoch,
            samples=tuple(samples),
            tokens=sum(self.lengths[i] for i in samples),
            supervised=sum(self.supervised[i] for i in samples),
            micro_batches=tuple(tuple(one) for one in bins),
        )

    def hands(self, step: Step, world: int) -> list[list[int | None]]:
        """Return per rank the numbers of the step's micro-batches that it runs, in their order."""
        return deal([self.cost(one) for one in step.micro_batches], world)

    def cost(self, samples: Sequence[int]) -> int:
        """Return the cost of a micro-batch: linear in tokens, quadratic in each segment."""
        linear = sum(self.lengths[i] for i in samples)
        squares = sum(self.lengths[i] ** 2 for i in samples)
        return self.settings.token_cost * linear + self.settings.square_cost * squares

    def epoch_end(self, number: int) -> bool:
        """Tell whether the step is the last of its epoch or of the run."""
        if number + 1 >= self.total_steps:
            return True
        return self._position(number)[0] != self._position(number + 1)[0]

    def epoch_after(self, number: int) -> float:
        """Return the epochs done after the step, as a fraction."""
        epoch, within = self._position(number)
        return epoch + (within + 1) / self._epoch_steps(epoch)

    def identity(self, cache_digest: str) -> str:
        """Return `sha256:…` of everything that decides which samples share a step.

        A checkpoint of another identity is never resumed. World size, budget and grain are left
        out on purpose: a resume may change them.
        """
        settings = self.settings
        facts: Mapping[str, object] = {
            "version": VERSION,
            "tokens": cache_digest,
            "seed": settings.seed,
            "steps": self.total_steps,
            "samplesPerStep": settings.samples,
            "tokensPerStep": settings.tokens,
            "dropLast": settings.drop_last,
        }
        text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    def _check(self) -> None:
        settings, longest = self.settings, max(self.lengths, default=0)
        if not self.lengths:
            raise ConfigurationError("the training split is empty; add records or lower the splits")
        if longest > settings.budget:
            raise ConfigurationError(
                f"training.maxTokensPerDevice: {settings.budget} is below the longest sample of "
                f"{longest} tokens; raise it or lower tokenizer.maxLength"
            )
        if settings.tokens and longest > settings.tokens:
            raise ConfigurationError(
                f"tokens per step: {settings.tokens} is below the longest sample of {longest}"
            )
        if settings.drop_last and len(self.lengths) < settings.samples:
            raise ConfigurationError(
                f"dropping the last batch leaves no step: {len(self.lengths)} samples are fewer "
                f"than one step of {settings.samples}"
            )

    def _samples(self, epoch: int, within: int) -> list[int]:
        if self.settings.samples:
            first = within * self.settings.samples
            samples: list[int] = self._order(epoch)[first : first + self.settings.samples]
            return samples
        return self._cut(epoch)[within]

    def _cut(self, epoch: int) -> list[list[int]]:
        steps = cut(self._order(epoch), self.lengths, tokens=self.settings.tokens)
        return steps[:-1] if self.settings.drop_last and len(steps) > 1 else steps

    def _epoch_steps(self, epoch: int) -> int:
        if not self.settings.samples:
            return len(self._cut(epoch))
        whole, rest = divmod(len(self.lengths), self.settings.samples)
        return whole + (1 if rest and not self.settings.drop_last else 0)

    def _position(self, number: int) -> tuple[int, int]:
        if self.settings.samples:
            return divmod(number, self.steps_per_epoch)
        ends = self._token_epoch_ends
        epoch = bisect_right(ends, number)
        return epoch, number - (ends[epoch - 1] if epoch else 0)

    @cached_property
    def _token_epoch_ends(self) -> list[int]:
        if not self.settings.max_steps:
            epochs = math.ceil(self.settings.epochs)
            return list(accumulate(self._epoch_steps(epoch) for epoch in range(epochs)))
        ends: list[int] = []
        while not ends or ends[-1] < self.settings.max_steps:
            ends.append((ends[-1] if ends else 0) + self._epoch_steps(len(ends)))
        return ends
