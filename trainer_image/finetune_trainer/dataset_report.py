"""The report of a Dataset for people: one HTML file that needs nothing else, and its figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from finetune_api.dataset_status import Finding, RecordCounts
from finetune_trainer.byte_size import shown_size
from finetune_trainer.dataset_records import Reading
from finetune_trainer.dataset_statistics import Histogram, Statistics
from finetune_trainer.findings import shortened
from finetune_trainer.record import Record, short_hash
from finetune_trainer.snapshot import Written
from finetune_trainer.split import SPLITS, Divided
from finetune_trainer.store import FileEntry, Store, canonical_json

WIDTH, HEIGHT = 360, 120
SHOWN_FIRST, SHOWN_LONGEST = 4, 4
MAX_TEXT = 4000
"""Characters of a turn or document that are shown."""


@dataclass(frozen=True)
class ReportContent:
    """Everything the report tells."""

    name: str
    record_type: str
    layout: str
    counts: RecordCounts
    statistics: Statistics
    reading: Reading
    divided: Divided
    sample_rows: int
    seed: int

    @cached_property
    def findings(self) -> list[Finding]:
        """Return all findings, not only those that fit into status."""
        return self.reading.findings.listed()


@dataclass(frozen=True)
class Bar:
    """One bar of a histogram, in units of the drawing."""

    x: float
    y: float
    width: float
    height: float
    label: str


@dataclass(frozen=True)
class Sample:
    """One record as it is shown."""

    title: str
    split: str
    bubbles: tuple[tuple[str, str], ...]
    """bubbles are role and text; a document has the role `text`."""


def write_report(store: Store, content: ReportContent, written: Written | None) -> FileEntry:
    """Write report.html and report.json; return the entry of the page."""
    store.write("report.json", canonical_json(_figures(content, written)))
    return store.write("report.html", page(content, written).encode())


def page(content: ReportContent, written: Written | None) -> str:
    """Return the report as one HTML document."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    source = files("finetune_trainer").joinpath("dataset_report.html").read_text("utf-8")
    return environment.from_string(source).render(
        content=content,
        written=written,
        cards=_cards(content, written),
        charts=[(one, bars(one)) for one in content.statistics.histograms if one.max],
        samples=samples(content),
        width=WIDTH,
        height=HEIGHT,
    )


def bars(histogram: Histogram) -> list[Bar]:
    """Return the bars of a histogram; the tallest one fills the height."""
    tallest, total = max(histogram.counts), sum(histogram.counts)
    step = WIDTH / len(histogram.counts)
    drawn = []
    for place, count in enumerate(histogram.counts):
        low = histogram.edges[place]
        high = low + histogram.width - 1
        last = place == len(histogram.counts) - 1 and histogram.max > high
        span = f"{low} and more" if last else f"{low}" if high == low else f"{low}-{high}"
        tall = HEIGHT * count / tallest
        label = f"{span} {histogram.unit}: {count:,} records ({count / total:.1%})"
        width = max(step - 2, 1)
        shown = max(tall, 1.5) if count else 0
        drawn.append(Bar(place * step + 1, HEIGHT - shown, width, shown, label))
    return drawn


def samples(content: ReportContent) -> list[Sample]:
    """Return records to look at: the first, the longest, then a seeded draw in hash order."""
    records = content.reading.records
    everything = range(len(records))
    first = list(everything[:SHOWN_FIRST])
    longest = sorted(everything, key=lambda place: -len(records[place].content()))[:SHOWN_LONGEST]
    drawn = sorted(everything, key=lambda place: short_hash(content.seed, "show", place))
    chosen = list(dict.fromkeys([*first, *longest, *drawn]))[: content.sample_rows]
    titles = dict.fromkeys(longest, "longest") | dict.fromkeys(first, "first rows")
    return [
        _sample(records[place], content.divided.splits[place], titles.get(place, "drawn"))
        for place in chosen
    ]


def _sample(record: Record, split: str, why: str) -> Sample:
    if record.text is not None:
        bubbles: Sequence[tuple[str, str]] = [("text", record.text)]
    else:
        bubbles = [("system", record.system)] if record.system else []
        bubbles = [*bubbles, *((turn.role, turn.content) for turn in record.turns)]
    place = record.place
    return Sample(
        title=f"{place.file}, row {place.row} · {why}",
        split=split,
        bubbles=tuple((role, shortened(text, MAX_TEXT)) for role, text in bubbles),
    )


def _cards(content: ReportContent, written: Written | None) -> list[tuple[str, str, str]]:
    """Return the cards on top: title, value and a line below it."""
    counts, lengths = content.counts, content.statistics.lengths
    share = counts.dropped / counts.read if counts.read else 0
    shares = ", ".join(f"{getattr(counts, split):,} {split}" for split in SPLITS[1:])
    return [
        ("Records", f"{counts.total:,}", f"of {counts.read:,} rows read"),
        ("Training", f"{counts.train:,}", shares),
        ("Rejected", f"{counts.dropped:,}", f"{share:.1%} of the rows"),
        ("Words", f"{content.statistics.words:,}", f"{content.statistics.characters:,} characters"),
        ("Median length", f"{lengths.p50:,}", f"words; 99 % below {lengths.p99:,}"),
        ("Snapshot", shown_size(written.bytes) if written else "none", content.layout),
    ]


def _figures(content: ReportContent, written: Written | None) -> dict[str, Any]:
    return {
        "version": 1,
        "recordType": content.record_type,
        "layout": content.layout,
        "records": json.loads(content.counts.model_dump_json(by_alias=True)),
        "lengths": json.loads(content.statistics.lengths.model_dump_json(by_alias=True)),
        "histograms": [asdict(one) for one in content.statistics.histograms],
        "findings": [json.loads(one.model_dump_json(by_alias=True)) for one in content.findings],
        "rejected": dict(content.reading.reasons),
        "digest": written.digest if written else None,
    }
