"""Turns the files of all sources into records kept and rows rejected, with every finding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from finetune_api.dataset import DatasetSpec
from finetune_api.dataset_sources import Csv, Format, Source
from finetune_api.dataset_status import ColumnStatus, SourceStatus
from finetune_trainer.byte_size import byte_size
from finetune_trainer.column_mapping import Mapping, column_mapping, missing_column
from finetune_trainer.findings import Findings, Problem
from finetune_trainer.formats import Row, format_of, rows_of
from finetune_trainer.layouts import record_of
from finetune_trainer.record import Place, Record
from finetune_trainer.sources.fetched_files import Fetched, FetchedFile
from finetune_trainer.split import SPELLINGS, sampled
from finetune_trainer.validate import Subject, problems_of, without_trailing_turns

MAX_REJECTED = 500
"""Rejected rows that the report lists; all are counted."""


@dataclass(frozen=True)
class Rejected:
    """One row that is not in the snapshot, or that stops it from being written."""

    problem: Problem
    action: str


@dataclass
class Reading:
    """What was read of all sources."""

    findings: Findings
    records: list[Record] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    """reasons count rejected rows, each by its first finding."""
    read: int = 0
    sources: list[SourceStatus] = field(default_factory=list)
    mappings: list[Mapping] = field(default_factory=list)

    @property
    def dropped(self) -> int:
        """Return the number of rows that became no record."""
        return sum(self.reasons.values())

    def reject(self, problems: Sequence[Problem]) -> None:
        """Count a row out; its findings were noted already."""
        self.reasons[problems[0].reason] += 1
        if len(self.rejected) < MAX_REJECTED:
            action = self.findings.action(problems[0].reason)
            self.rejected.append(Rejected(problems[0], action))

    def columns(self) -> list[ColumnStatus]:
        """Return every mapped column once."""
        found = {
            (status.role, status.column): status
            for mapping in self.mappings
            for status in mapping.status()
        }
        return list(found.values())[:16]


class SourceReader:
    """Reads one source into a `Reading` that all sources share."""

    def __init__(self, name: str, source: Source, spec: DatasetSpec, reading: Reading) -> None:
        self._name, self._source, self._spec, self._reading = name, source, spec, reading
        self._max_bytes = byte_size(spec.checks.max_row_size)

    def read(self, fetched: Fetched) -> None:
        """Add the records and findings of all files of the source."""
        rows = [found for file in fetched.files for found in self._rows(file)]
        self._reading.sources.append(self._status(fetched, len(rows)))
        chosen = sampled(range(len(rows)), self._source.max_rows, self._spec.split.seed, self._name)
        kept = [rows[number] for number in sorted(chosen)]
        self._reading.read += len(kept)
        where = fetched.files[0].entry.name if len(fetched.files) == 1 else self._name
        mapping = self._mapping([row.cells for _, row in kept if isinstance(row, Row)], where)
        for number, (file, row) in enumerate(kept, 1):
            if isinstance(row, Problem):
                self._reject([row])
            elif mapping is not None:
                place = Place(self._name, file.entry.name, row.number, number)
                self._keep(row, place, mapping, file)

    def _rows(self, file: FetchedFile) -> Iterator[tuple[FetchedFile, Row | Problem]]:
        name, chosen = file.entry.name, self._source.format
        kind = format_of(name) if chosen == Format.AUTO else chosen
        if kind is None:
            self._note(Problem("UnsupportedFormat", name, detail=f'extension of "{name[-40:]}"'))
            return
        count = 0
        for row in rows_of(file.path, name, kind, self._source.csv or Csv()):
            if isinstance(row, Problem) and row.row is None:
                self._note(row)
            else:
                count += 1
                yield file, row
        self._reading.findings.totals[name] = count

    def _mapping(self, cells: Sequence[dict[str, Any]], where: str) -> Mapping | None:
        if not cells:
            return None
        columns = list(dict.fromkeys(name for row in cells for name in row))
        mapping, problems = column_mapping(columns, self._spec, where)
        for name in (self._spec.split.column, self._spec.split.group_by):
            if name is not None and name not in columns:
                problems.append(missing_column(name, columns, where))
        for problem in problems:
            self._note(problem)
        if mapping is not None:
            self._reading.mappings.append(mapping)
        return None if problems else mapping

    def _keep(self, row: Row, place: Place, mapping: Mapping, file: FetchedFile) -> None:
        record = record_of(row, place, mapping, self._spec.roles or {})
        if isinstance(record, Problem):
            self._reject([record])
            return
        record = replace(record, group=self._group(row), split=self._split(row, file))
        problems = problems_of(Subject(record, mapping, self._max_bytes))
        if record.split is not None and record.split not in SPELLINGS.values():
            column = self._spec.split.column or ""
            detail = f'found "{record.split[:40]}"'
            problems.append(Problem("UnknownSplit", place.file, place.row, column, detail))
        if any(self._note(problem) != "Accepted" for problem in problems):
            out = [
                one for one in problems if self._reading.findings.action(one.reason) != "Accepted"
            ]
            self._reading.reject(out)
        else:
            self._reading.records.append(without_trailing_turns(record))

    def _group(self, row: Row) -> str | None:
        column = self._spec.split.group_by
        return None if column is None else str(row.cells.get(column))

    def _split(self, row: Row, file: FetchedFile) -> str | None:
        """Return the split that the source, its files or a column says; unknown words as found."""
        if self._source.split is not None:
            return self._source.split.lower()
        if self._spec.split.column is None:
            return file.split
        word = str(row.cells.get(self._spec.split.column))
        return SPELLINGS.get(word.strip().lower(), word)

    def _reject(self, problems: list[Problem]) -> None:
        for problem in problems:
            self._note(problem)
        self._reading.reject(problems)

    def _note(self, problem: Problem) -> str:
        return self._reading.findings.add(problem)

    def _status(self, fetched: Fetched, rows: int) -> SourceStatus:
        kinds = {format_of(file.entry.name) for file in fetched.files} - {None}
        chosen = self._source.format
        return SourceStatus(
            name=self._name,
            revision=fetched.revision,
            digest=fetched.digest,
            files=len(fetched.files),
            rows=rows,
            bytes=sum(file.entry.bytes for file in fetched.files),
            format=chosen.value
            if chosen != Format.AUTO
            else ", ".join(sorted(map(str, kinds)))[:32],
        )
