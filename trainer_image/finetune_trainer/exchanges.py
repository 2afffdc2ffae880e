"""Where the exchanges of multi-turn samples lie: a user turn and everything up to the next one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.token_cache import TokenCache

USER = 1
"""Role of a user turn in `turns.bin`."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Exchanges:
    """The exchanges of a split in order; what precedes a sample's first one is its head."""

    starts: Ints
    ends: Ints
    samples: Ints
    first: Ints
    """first exchange of every sample, and their number behind: N + 1 numbers"""

    @property
    def last(self) -> NDArray[np.bool_]:
        """Tell which exchanges are the last of their sample; these always stay."""
        marks = np.zeros(len(self.starts), np.bool_)
        marks[self.first[1:][np.diff(self.first) > 0] - 1] = True
        return marks

    @property
    def counts(self) -> Ints:
        """Number of exchanges of every sample."""
        return np.diff(self.first)


def exchanges_of(cache: TokenCache) -> Exchanges:
    """Return the exchanges of a cache: a sample without user turns, as a document, has none."""
    starts = np.ascontiguousarray(cache.turns[cache.turns[:, 1] == USER, 0])
    samples = np.searchsorted(cache.offsets, starts, "right") - 1
    following = np.append(starts[1:], cache.offsets[-1]) if len(starts) else starts
    ends = np.minimum(following, cache.offsets[samples + 1])
    first = np.searchsorted(samples, np.arange(len(cache) + 1))
    return Exchanges(starts, ends, samples, first)
