"""Changes to training samples, drawn anew each epoch as a function of (seed, epoch, place).

In this order: exchanges before the last are left out; the first exchange of a record of another
tree becomes the first exchange, as context only; content tokens become the mask token and lose
their label. What stands before the first exchange, the root's system text, always stays. Lengths
are final when an epoch's index is built, so the plan knows them before the epoch's first step.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.exchanges import Exchanges, Ints, exchanges_of
from finetune_trainer.plan import AUGMENT, mix, mixed
from finetune_trainer.token_cache import CONTENT, SUPERVISED, TokenCache, supervised_rows

log = logging.getLogger("finetune_trainer")

SKIP, INSERT, DONOR, MASK = range(1, 5)
"""One stream per change."""
TRIES = 8
"""Draws of a parent before a sample goes without: a draw may hit the sample's own tree."""
UNLABELLED = np.uint8(255 - SUPERVISED)

Marks = NDArray[np.bool_]
Text = tuple[NDArray[np.uint32], NDArray[np.uint8]]
"""Token ids and flags of a sample."""


@dataclass(frozen=True)
class Augmentation:
    """What is drawn; `limit` is the longest sample in tokens."""

    seed: int
    limit: int
    skip: float = 0.0
    insert: float = 0.0
    mask: float = 0.0
    mask_token: int = 0

    @property
    def acts(self) -> bool:
        """Tell whether any sample may change."""
        return bool(self.skip or self.insert or self.mask)

    def identity(self) -> Mapping[str, object]:
        """Return what decides about the samples, for the identity of the plan."""
        return asdict(self) if self.acts else {}

    def drawn(self, epoch: int, stream: int, places: Ints, share: float) -> Marks:
        """Tell for every place whether an event of probability `share` happens."""
        bits = self.draws(epoch, stream, places) >> np.uint64(11)
        return bits < np.uint64(share * (1 << 53))

    def draws(self, epoch: int, stream: int, places: Ints) -> NDArray[np.uint64]:
        """Return 64 bits per place; a place keeps its bits whatever else is drawn."""
        return mixed(mix(self.seed, AUGMENT, epoch, stream), places.view(np.uint64))


@dataclass(frozen=True)
class AugmentedEpoch:
    """The samples of one epoch: how long they are, and each of them on demand."""

    number: int
    lengths: Ints
    kept: Marks
    """kept exchanges, of all samples"""
    donors: Ints
    """donors are the exchanges put in, per sample; -1 = none"""
    left_out: int
    """left_out counts drawn parents that would have passed the limit"""
    samples: AugmentedSamples

    @cached_property
    def supervised(self) -> Ints:
        """Supervised rows of each sample; only steps need them, not the number of steps."""
        return self.samples.supervised(self)

    def sample(self, number: int) -> Text:
        """Return a sample's token ids and flags as this epoch has them."""
        return self.samples.sample(self, number)


class AugmentedSamples:
    """A split whose samples change from epoch to epoch."""

    def __init__(self, cache: TokenCache, settings: Augmentation) -> None:
        self._cache, self._settings = cache, settings
        self.exchanges: Exchanges = exchanges_of(cache)
        self._last = self.exchanges.last
        self._heads_end = cache.offsets[1:].copy()
        several = self.exchanges.counts > 0
        self._heads_end[several] = self.exchanges.starts[self.exchanges.first[:-1][several]]
        self.of = lru_cache(maxsize=2)(self._epoch)

    def _epoch(self, number: int) -> AugmentedEpoch:
        """Return the index of an epoch; it needs no other epoch."""
        kept, donors, left_out = self._structure(number)
        lengths = self._lengths(kept, donors)
        if self._settings.skip or self._settings.insert:
            log.info(
                "epoch %d  %d exchanges left out or replaced  %d put in  %d too long to be put in",
                *(number, int((~kept).sum()), int((donors >= 0).sum()), left_out),
            )
        return AugmentedEpoch(number, lengths, kept, donors, left_out, self)

    def supervised(self, epoch: AugmentedEpoch) -> Ints:
        """Return the supervised rows of every sample as an epoch has them.

        Masking leaves every sample one: `sample` gives one back where none is left.
        """
        return np.maximum(1, self._rows(epoch.kept, epoch.donors, epoch.number))

    def sample(self, epoch: AugmentedEpoch, number: int) -> Text:
        """Return a sample's token ids and flags as an epoch has them."""
        start, head_end = int(self._cache.offsets[number]), int(self._heads_end[number])
        donor, own = int(epoch.donors[number]), self.exchanges.first[number : number + 2]
        spans = [(start, head_end), *self._spans([donor] if donor >= 0 else [])]
        context = slice(head_end - start, sum(end - begin for begin, end in spans))
        spans += self._spans(np.flatnonzero(epoch.kept[slice(*own)]) + own[0])
        places = np.concatenate([np.arange(begin, end) for begin, end in spans])
        tokens, flags = self._cache.tokens[places], self._cache.flags[places]
        flags[context] &= UNLABELLED
        flags[places == start] &= UNLABELLED
        flags[:1] &= UNLABELLED
        if self._settings.mask:
            self._mask(epoch.number, places, tokens, flags)
        return tokens, flags

    def _spans(self, exchanges: Ints | list[int]) -> list[tuple[int, int]]:
        return [
            (int(self.exchanges.starts[one]), int(self.exchanges.ends[one])) for one in exchanges
        ]

    def _mask(
        self, epoch: int, places: Ints, tokens: NDArray[np.uint32], flags: NDArray[np.uint8]
    ) -> None:
        draws = self._settings.draws(epoch, MASK, places)
        hidden = self._hidden(epoch, places, flags)
        labelled = flags & SUPERVISED > 0
        if not (labelled & ~hidden).any():
            hidden[np.argmax(np.where(labelled, draws, 0))] = False
        tokens[hidden] = self._settings.mask_token
        flags[hidden] &= UNLABELLED

    def _hidden(self, epoch: int, places: Ints, flags: NDArray[np.uint8]) -> Marks:
        drawn = self._settings.drawn(epoch, MASK, places, self._settings.mask)
        return drawn & (flags & CONTENT > 0)

    def _structure(self, epoch: int) -> tuple[Marks, Ints, int]:
        """Return the exchanges kept, the ones put in, and how many of these were too long."""
        settings = self._settings
        numbers = np.arange(len(self._last))
        kept = self._last | ~settings.drawn(epoch, SKIP, numbers, settings.skip)
        donors, left_out = self._donors(epoch), 0
        taken = kept.copy()
        taken[self._first_parents(kept, donors >= 0)] = False
        long = (donors >= 0) & (self._lengths(taken, donors) > settings.limit)
        left_out = int(long.sum())
        donors[long] = -1
        kept[self._first_parents(kept, donors >= 0)] = False
        # What is left of a sample may hold no label, as with trees whose answers count elsewhere.
        bare = self._rows(kept, donors, None) < 1
        kept |= bare[self.exchanges.samples]
        donors[bare] = -1
        return kept, donors, left_out

    def _first_parents(self, kept: Marks, of: Marks) -> Ints:
        """Return the first kept exchange before the last one, of those samples that have any."""
        parents = np.flatnonzero(kept & ~self._last & of[self.exchanges.samples])
        return parents[_firsts(self.exchanges.samples[parents])]

    def _donors(self, epoch: int) -> Ints:
        """Return the first exchange of a uniformly drawn record of another tree, or -1."""
        settings, count = self._settings, len(self._cache)
        donors = np.full(count, -1, np.int64)
        pool = np.flatnonzero(self.exchanges.counts)
        groups = self._cache.groups if len(self._cache.groups) else np.arange(count)
        wanting = pool[settings.drawn(epoch, INSERT, pool, settings.insert)]
        for attempt in range(TRIES):
            bits = settings.draws(epoch, DONOR, wanting + attempt * count)
            drawn = pool[(bits % np.uint64(max(1, len(pool)))).view(np.int64)]
            other = groups[drawn] != groups[wanting]
            donors[wanting[other]] = self.exchanges.first[drawn[other]]
            wanting = wanting[~other]
        return donors

    def _lengths(self, kept: Marks, donors: Ints) -> Ints:
        sizes = self.exchanges.ends - self.exchanges.starts
        lengths = self._heads_end - self._cache.offsets[:-1] + self._summed(kept, sizes)
        lengths[donors >= 0] += sizes[donors[donors >= 0]]
        return lengths

    def _rows(self, kept: Marks, donors: Ints, masked: int | None) -> Ints:
        """Return the supervised rows per sample; `masked` is the epoch whose masks are drawn."""
        if masked is None or not self._settings.mask:
            heads, exchanges = self._plain_rows
        else:
            heads, exchanges = self._counted(masked)
        return heads + self._summed(kept, exchanges) - self._lost(kept, donors, masked)

    def _summed(self, kept: Marks, values: Ints) -> Ints:
        chosen, count = self.exchanges.samples[kept], len(self._cache)
        return np.bincount(chosen, values[kept], minlength=count).astype(np.int64)

    @cached_property
    def _plain_rows(self) -> tuple[Ints, Ints]:
        return self._counted(None)

    def _counted(self, epoch: int | None) -> tuple[Ints, Ints]:
        """Return the supervised rows of every head and every exchange."""
        count, flags = len(self._cache), self._cache.flags
        starts = np.concatenate([self._cache.offsets[:-1], self.exchanges.starts])
        ends = np.concatenate([self._heads_end, self.exchanges.ends])
        in_place = np.argsort(starts, kind="stable")
        rows = np.empty_like(starts)

        def hidden(low: int, high: int) -> Marks:
            return self._hidden(epoch or 0, np.arange(low, high), flags[low:high])

        drawn = None if epoch is None else hidden
        rows[in_place] = supervised_rows(self._cache, starts[in_place], ends[in_place], drawn)
        return rows[:count], rows[count:]

    def _lost(self, kept: Marks, donors: Ints, masked: int | None) -> Ints:
        """Return 1 where a sample without head now begins with a token that had a label."""
        chosen = np.flatnonzero(kept)
        leading = chosen[_firsts(self.exchanges.samples[chosen])]
        owners, places = self.exchanges.samples[leading], self.exchanges.starts[leading]
        begins = (self._heads_end == self._cache.offsets[:-1])[owners] & (donors[owners] < 0)
        begins &= places > self._cache.offsets[owners]
        places, owners = places[begins], owners[begins]
        flags = self._cache.flags[places]
        labelled = flags & SUPERVISED > 0
        if masked is not None and self._settings.mask:
            labelled &= ~self._hidden(masked, places, flags)
        lost = np.zeros(len(self._cache), np.int64)
        lost[owners] = labelled
        return lost


def _firsts(sorted_values: Ints) -> Marks:
    """Tell where a value of a sorted array stands for the first time."""
    return np.diff(sorted_values, prepend=-1) > 0
