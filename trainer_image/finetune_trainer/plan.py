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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from finetune_api.training_settings import LossAveraging
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.mixture import Mixture
from finetune_trainer.packing import borders, deal, pack, pack_padded

VERSION = 1
WORD = (1 << 64) - 1
GAMMA, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB

ORDER, INIT, DROPOUT, AUGMENT, NOISE, GENERATE, SOURCE = range(1, 8)
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


def mixed(h: int, words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return `mix(*before, word)` for every word, given `h = mix(*before)`."""
    drawn = words + np.uint64((h + GAMMA) & WORD)
    for shift, factor in ((30, FIRST), (27, SECOND)):
        drawn ^= drawn >> np.uint64(shift)
        drawn *= np.uint64(factor)
    drawn ^= drawn >> np.uint64(31)
    return drawn


def order(count: int, seed: int, epoch: int) -> Order:
    """Return the samples 0…count-1 in the order of an epoch: sorted by `mix(seed, …, sample)`."""
    return _permutation(count, mix(seed, ORDER, epoch))


def mixed_order(mixture: Mixture, seed: int, epoch: int) -> Order:
    """Return the samples that an epoch draws from weighted sources, in its order."""
    entries = mixture.entries(
        epoch,
        lambda source, number, count: _permutation(count, mix(seed, SOURCE, source, number)),
    )
    return entries[order(len(entries), seed, epoch)]


def _permutation(count: int, key: int) -> Order:
    return np.argsort(mixed(key, np.arange(count, dtype=np.uint64)), kind="stable")


class EpochIndex(Protocol):
    """Final tokens and supervised rows of every sample of one epoch, both known before it."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each sample."""
        ...

    @property
    def supervised(self) -> NDArray[np.int64]:
        """Supervised rows of each sample."""
        ...


@dataclass(frozen=True)
class PlainIndex:
    """The index of every epoch where nothing changes a length."""

    lengths: NDArray[np.int64]
    supervised: NDArray[np.int64]


@dataclass(frozen=True)
class PlanSettings:
    """What decides the steps. Either `samples` or `tokens` per step, `epochs` or `max_steps`.

    `budget` (tokens of a micro-batch), `padded`, `grain` (ranks of the first attempt) and the
    costs change speed and memory, never which samples form a step.
    """

    seed: int
    budget: int
    samples: int = 0
    tokens: int = 0
    epochs: float = 1.0
    max_steps: int = 0
    drop_last: bool = False
    averaging: LossAveraging = LossAveraging.TOKENS
    """averaging of the rows' losses over a step"""
    grain: int = 1
    longest: int = 0
    """longest sample that an augmentation may make, in tokens"""
    padded: bool = False
    """padded micro-batches count every row as long as their longest one"""
    token_cost: int = 1
    square_cost: int = 0
    """costs of a token and of a squared segment length in `deal`, in any common unit"""
    changes: Mapping[str, object] = field(default_factory=dict)
    """changes are whatever else decides about samples: augmentations, weights of sources"""


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
    """The steps of a run over samples with known lengths and numbers of supervised rows.

    `augmented` gives the index of an epoch whose lengths differ from the samples' own; `mixture`
    draws an epoch's samples by the weights of their sources, else each comes once.
    """

    def __init__(
        self,
        lengths: Sequence[int] | NDArray[np.int64],
        supervised: Sequence[int] | NDArray[np.int64],
        settings: PlanSettings,
        augmented: Callable[[int], EpochIndex] | None = None,
        mixture: Mixture | None = None,
    ) -> None:
        plain = PlainIndex(np.asarray(lengths, np.int64), np.asarray(supervised, np.int64))
        self.settings, self._count = settings, len(plain.lengths)
        self._check(plain)
        self.index: Callable[[int], EpochIndex] = augmented or (lambda _: plain)
        self._mixture = mixture
        self._order = lru_cache(maxsize=2)(self._epoch_order)
        self._borders = lru_cache(maxsize=2)(self._cut)

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
        samples, index = self._samples(epoch, within), self.index(epoch)
        chosen: list[int] = samples.tolist()
        lengths = dict(zip(chosen, index.lengths[samples].tolist(), strict=True))
        packed = pack_padded if self.settings.padded else pack
        bins = packed(chosen, lengths, self.settings.budget, self.settings.grain)
        return Step(
            number=number,
            epoch=epoch,
            samples=tuple(chosen),
            tokens=int(index.lengths[samples].sum()),
            supervised=int(index.supervised[samples].sum()),
            micro_batches=tuple(tuple(one) for one in bins),
        )

    def hands(self, step: Step, world: int) -> list[list[int | None]]:
        """Return per rank the numbers of the step's micro-batches that it runs, in their order."""
        lengths = self.index(step.epoch).lengths
        return deal([self._cost(lengths[list(one)]) for one in step.micro_batches], world)

    def epoch_end(self, number: int) -> bool:
        """Tell whether the step is the last of its epoch or of the run."""
        if number + 1 >= self.total_steps:
            return True
        return self._position(number)[0] != self._position(number + 1)[0]

    def epoch_after(self, number: int) -> float:
        """Return the epochs done after the step, as a fraction."""
        epoch, within = self._position(number)
        if self.settings.samples:
            return epoch + (within + 1) / self.steps_per_epoch
        first, end = [0, *self._token_epoch_ends][epoch : epoch + 2]
        return epoch + (within + 1) / (end - first)

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
            "changes": settings.changes,
        }
        text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    def _check(self, index: EpochIndex) -> None:
        settings = self.settings
        if not self._count:
            raise ConfigurationError("the training split is empty; add records or lower the splits")
        longest = max(settings.longest, int(index.lengths.max()))
        if longest > settings.budget:
            raise ConfigurationError(
                f"training.maxTokensPerDevice: {settings.budget} is below the longest sample of "
                f"{longest} tokens; raise it or lower tokenizer.maxLength"
            )
        if settings.tokens and longest > settings.tokens:
            raise ConfigurationError(
                f"training.globalBatchTokens: {settings.tokens} is below the longest sample of "
                f"{longest} tokens; raise it or lower tokenizer.maxLength"
            )
        if settings.drop_last and self._count < settings.samples:
            raise ConfigurationError(
                f"training.dropLastBatch: no step is left, {self._count} samples are fewer than "
                f"one step of {settings.samples}; lower the batch or keep the last one"
            )

    def _cost(self, lengths: NDArray[np.int64]) -> int:
        """Return the cost of a micro-batch: linear in tokens, quadratic in each segment."""
        if self.settings.padded and len(lengths):
            lengths = np.full_like(lengths, lengths.max())
        squares = int((lengths * lengths).sum())
        return self.settings.token_cost * int(lengths.sum()) + self.settings.square_cost * squares

    def _samples(self, epoch: int, within: int) -> Order:
        if self.settings.samples:
            first = within * self.settings.samples
            return self._order(epoch)[first : first + self.settings.samples]
        first, end = self._borders(epoch)[within : within + 2]
        return self._order(epoch)[first:end]

    def _epoch_order(self, epoch: int) -> Order:
        if self._mixture is not None:
            return mixed_order(self._mixture, self.settings.seed, epoch)
        return order(self._count, self.settings.seed, epoch)

    def _cut(self, epoch: int) -> list[int]:
        """Return where the token-sized steps of an epoch begin and end."""
        lengths = self.index(epoch).lengths[self._order(epoch)].tolist()
        cuts = borders(lengths, self.settings.tokens)
        return cuts[:-1] if self.settings.drop_last and len(cuts) > 2 else cuts

    def _epoch_steps(self, epoch: int) -> int:
        if not self.settings.samples:
            return len(self._borders(epoch)) - 1
        whole, rest = divmod(self._count, self.settings.samples)
        return whole + (1 if rest and not self.settings.drop_last else 0)

    def _position(self, number: int) -> tuple[int, int]:
        if self.settings.samples:
            return divmod(number, self.steps_per_epoch)
        epoch = bisect_right(self._token_epoch_ends, number)
        return epoch, number - (self._token_epoch_ends[epoch - 1] if epoch else 0)

    @cached_property
    def _token_epoch_ends(self) -> list[int]:
        """Steps done after each epoch, all cut before step 1: the schedule needs its length."""
        ends: list[int] = []
        most = self.settings.max_steps
        while ends[-1:] < [most] if most else len(ends) < math.ceil(self.settings.epochs):
            ends.append((ends[-1] if ends else 0) + self._epoch_steps(len(ends)))
        return ends
