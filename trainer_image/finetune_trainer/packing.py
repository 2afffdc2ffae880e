"""Cuts an epoch into steps, a step into micro-batches, and deals these to ranks; integers only."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from heapq import heapreplace
from itertools import accumulate
from typing import Protocol


class Lengths(Protocol):
    """Tokens by number of the sample: a list, or a mapping of those that matter."""

    def __getitem__(self, sample: int, /) -> int:
        """Return the tokens of a sample."""
        ...


def borders(lengths: Sequence[int], tokens: int) -> list[int]:
    """Return where the steps of an epoch begin, and its end: runs of at most `tokens` tokens.

    `lengths` stand in the order of the epoch; none of them exceeds `tokens`.
    """
    loads = list(accumulate(lengths, initial=0))
    found = [0]
    while found[-1] < len(lengths):
        found.append(bisect_right(loads, loads[found[-1]] + tokens) - 1)
    return found


def pack(step: Sequence[int], lengths: Lengths, budget: int, grain: int) -> list[list[int]]:
    """Return micro-batches of at most `budget` tokens, their number a multiple of `grain`.

    The longest sample goes first, always into the emptiest bin; bins may stay empty.
    """
    todo = _longest_first(step, lengths)
    count = grain * -(-sum(lengths[i] for i in step) // (budget * grain))
    while (bins := _filled(todo, lengths, budget, count)) is None:
        count += grain
    return bins


def pack_padded(step: Sequence[int], lengths: Lengths, budget: int, grain: int) -> list[list[int]]:
    """Return micro-batches whose rows, all padded to the longest one, have `budget` tokens at most.

    Runs of the longest-first order, so that rows of like length meet; empty ones fill the grain.
    """
    todo = _longest_first(step, lengths)
    bins: list[list[int]] = []
    for i in todo:
        if not bins or (len(bins[-1]) + 1) * lengths[bins[-1][0]] > budget:
            bins.append([])
        bins[-1].append(i)
    return bins + [[] for _ in range(-len(bins) % grain)]


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


def _longest_first(step: Sequence[int], lengths: Lengths) -> list[int]:
    return sorted(step, key=lambda i: (-lengths[i], i))


def _filled(
    todo: Sequence[int], lengths: Lengths, budget: int, count: int
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
