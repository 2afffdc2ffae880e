"""Draws the samples of an epoch by the weights of their sources."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Order = Callable[[int, int, int], Ints]
"""Takes source, round and count; returns a permutation of 0…count-1."""


class Mixture:
    """Samples with the number of their source, and a weight per source.

    An epoch has as many entries as there are samples. A source's share of them is drawn without
    replacement over the epochs: entry after entry of a permutation of it, then of a new one.
    """

    def __init__(self, sources: NDArray[np.uint8], weights: Sequence[float]) -> None:
        self._members = [np.flatnonzero(sources == one) for one in range(len(weights))]
        self._counts = shares(
            len(sources), [w * (len(m) > 0) for w, m in zip(weights, self._members, strict=True)]
        )

    def entries(self, epoch: int, order: Order) -> Ints:
        """Return the samples of an epoch, source by source; it needs no other epoch."""
        drawn = []
        for source, (members, count) in enumerate(zip(self._members, self._counts, strict=True)):
            places = np.arange(epoch * count, (epoch + 1) * count)
            for number in np.unique(places // max(1, len(members))).tolist():
                within = places[places // len(members) == number] % len(members)
                drawn.append(members[order(source, number, len(members))[within]])
        return np.concatenate(drawn)


def shares(total: int, weights: Sequence[float]) -> list[int]:
    """Return whole numbers in proportion to the weights, each within one of its share."""
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [int(one) for one in exact]
    largest = sorted(range(len(exact)), key=lambda at: (counts[at] - exact[at], at))
    for at in largest[: total - sum(counts)]:
        counts[at] += 1
    return counts
