"""Counts, lengths and histograms of a dataset, for its status and its report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

from finetune_api.dataset_status import Lengths
from finetune_trainer.record import Record

BINS, FEWEST_BINS = 24, 10


@dataclass(frozen=True)
class Histogram:
    """Counts of values in bins of equal width; the last bin takes everything above."""

    title: str
    unit: str
    edges: tuple[int, ...]
    """edges are the lower ends of the bins."""
    counts: tuple[int, ...]
    p50: int
    p90: int
    p95: int
    p99: int
    max: int

    @property
    def width(self) -> int:
        """Return the width of a bin."""
        return self.edges[1] - self.edges[0] if len(self.edges) > 1 else 1


@dataclass(frozen=True)
class Statistics:
    """What the report draws."""

    lengths: Lengths
    histograms: tuple[Histogram, ...]
    characters: int
    words: int
    systems: int


def statistics(records: Sequence[Record]) -> Statistics:
    """Return the statistics of records; lengths are in words, separated by white space."""
    whole = [_words(record) for record in records]
    drawn = [histogram("Whole record", "words", whole)]
    if any(record.turns for record in records):
        prompts = [len(record.prompt_text().split()) for record in records]
        answers = [len(record.answer_text().split()) for record in records]
        drawn.append(histogram("Prompt", "words", prompts))
        drawn.append(histogram("Answer", "words", answers))
        drawn.append(histogram("Turns", "turns", [len(record.turns) for record in records]))
    drawn += _trees(records)
    ordered = sorted(whole)
    return Statistics(
        lengths=Lengths(
            unit="words",
            p50=quantile(ordered, 0.5),
            p95=quantile(ordered, 0.95),
            p99=quantile(ordered, 0.99),
            max=ordered[-1] if ordered else 0,
        ),
        histograms=tuple(drawn),
        characters=sum(_characters(record) for record in records),
        words=sum(whole),
        systems=sum(record.system is not None for record in records),
    )


def _trees(records: Sequence[Record]) -> Iterator[Histogram]:
    """Yield how large conversation trees are, and how many conversations end in each."""
    rows = [(record.place.source, record) for record in records if record.tree is not None]
    if rows:
        parents = {(source, record.parent) for source, record in rows}
        sizes = Counter((source, record.tree) for source, record in rows)
        leaves = Counter(
            (source, record.tree) for source, record in rows if (source, record.id) not in parents
        )
        yield histogram("Conversation trees", "rows", list(sizes.values()))
        yield histogram("Ends of conversation trees", "leaves", list(leaves.values()))


def quantile(ordered: Sequence[int], share: float) -> int:
    """Return the smallest value that at least `share` of the sorted values do not exceed."""
    if not ordered:
        return 0
    return ordered[min(len(ordered), max(1, ceil(share * len(ordered)))) - 1]


def histogram(title: str, unit: str, values: Sequence[int]) -> Histogram:
    """Return a histogram whose bins end at the 99th percentile, so that outliers hide nothing."""
    ordered = sorted(values)
    top = max(1, quantile(ordered, 0.99))
    width = max(1, ceil((top + 1) / BINS))
    bins = max(top // width + 1, FEWEST_BINS)
    counted = Counter(min(value // width, bins - 1) for value in values)
    return Histogram(
        title=title,
        unit=unit,
        edges=tuple(number * width for number in range(bins)),
        counts=tuple(counted[number] for number in range(bins)),
        p50=quantile(ordered, 0.5),
        p90=quantile(ordered, 0.9),
        p95=quantile(ordered, 0.95),
        p99=quantile(ordered, 0.99),
        max=ordered[-1] if ordered else 0,
    )


def _words(record: Record) -> int:
    return sum(len(text.split()) for text in _texts(record))


def _characters(record: Record) -> int:
    return sum(len(text) for text in _texts(record))


def _texts(record: Record) -> list[str]:
    if record.text is not None:
        return [record.text]
    return [record.system or "", *(turn.content for turn in record.turns)]
