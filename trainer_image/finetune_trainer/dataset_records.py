"""Turns the files of all sources into records kept and rows rejected, with every finding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from finetune_api.dataset import DatasetSpec, Layout
from finetune_api.dataset_sources import Csv, Format, Source, Split
from finetune_api.dataset_status import ColumnStatus, SourceStatus
from finetune_trainer.byte_size import byte_size
from finetune_trainer.column_mapping import (
    ID,
    PARENT,
    Mapping,
    column_mapping,
    missing_column,
)
from finetune_trainer.conversation_trees import Trees, joined, root_numbers
from finetune_trainer.findings import Findings, Problem, shortened
from finetune_trainer.formats import Row, format_of, rows_of
from finetune_trainer.layouts import UnreadableCellError, id_cell, record_of
from finetune_trainer.record import Place, Record, short_hash
from finetune_trainer.sources.fetched_files import Fetched, FetchedFile
from finetune_trainer.split import SPELLINGS, sampled, sampled_groups
from finetune_trainer.validate import Subject, problems_of, without_trailing_turns

FoundRow = tuple[FetchedFile, Row | Problem]

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
        self._lost: dict[str, Problem] = {}
        """rows that are out, by id: rows that name them as parent follow"""
        given = spec.columns.parent_id if spec.columns is not None else None
        self._chains = bool(given) or spec.layout == Layout.PARENT_CHAIN

    def read(self, fetched: Fetched) -> None:
        """Add the records and findings of all files of the source."""
        rows = [found for file in fetched.files for found in self._rows(file)]
        self._reading.sources.append(self._status(fetched, len(rows)))
        where = fetched.files[0].entry.name if len(fetched.files) == 1 else self._name
        mapping = self._mapping([row.cells for _, row in rows if isinstance(row, Row)], where)
        kept = self._chosen(rows, mapping)
        self._reading.read += len(kept)
        found: list[Record] = []
        for number, (file, row) in enumerate(kept, 1):
            if isinstance(row, Problem):
                self._reject([row])
            elif mapping is not None:
                place = Place(self._name, file.entry.name, row.number, number)
                found += self._kept(row, place, mapping, file)
        linked = mapping is not None and mapping.layout == Layout.PARENT_CHAIN
        if mapping is not None and linked:
            self._note_types([row for _, row in kept if isinstance(row, Row)], mapping, where)
        self._reading.records += self._linked(found) if linked else self._with_own_ids(found)

    def _chosen(self, rows: Sequence[FoundRow], mapping: Mapping | None) -> Sequence[FoundRow]:
        """Return at most `maxRows` rows; of linked rows whole conversations, at least one."""
        limit, seed = self._source.max_rows, self._spec.split.seed
        if limit is None or len(rows) <= limit:
            return rows
        if mapping is None or mapping.layout != Layout.PARENT_CHAIN:
            chosen = sampled(range(len(rows)), limit, seed, self._name)
            return [rows[number] for number in sorted(chosen)]
        ids, parents = (
            [_id_of(row, mapping.column(part)) for _, row in rows] for part in (ID, PARENT)
        )
        roots = root_numbers(ids, parents)
        names = [short_hash("tree", ids[root] or root) for root in roots]
        trees = sampled_groups(names, seed, rows=limit)
        return [row for row, name in zip(rows, names, strict=True) if name in trees]

    def _with_own_ids(self, records: list[Record]) -> list[Record]:
        seen: set[str] = set()
        for record in records:
            if record.id is not None and record.id in seen:
                place, shown = record.place, f'"{shortened(record.id, 40)}"'
                self._note(Problem("DuplicateId", place.file, place.row, "", shown))
            seen.add(record.id or "")
        return records

    def _linked(self, records: list[Record]) -> list[Record]:
        trees = joined(records, self._lost, self._note) if records else Trees([])
        for at in sorted(trees.out):
            self._reading.reject([trees.out[at]])
        for before, after in zip(records, trees.records, strict=True):
            if before.split != after.split:
                self._note(Problem("GroupAcrossSplits", after.place.file, after.place.row))
        return trees.kept

    def _note_types(self, rows: Sequence[Row], mapping: Mapping, where: str) -> None:
        ids, parents = (
            {isinstance(cell, str) for row in rows if (cell := row.cells.get(column)) is not None}
            for column in (mapping.column(ID) or "", mapping.column(PARENT) or "")
        )
        if len(ids) == len(parents) == 1 and ids != parents:
            detail = f"{'text' if ids == {True} else 'numbers'} and "
            detail += "text" if parents == {True} else "numbers"
            self._note(Problem("IdTypeMismatch", where, detail=detail))

    def _rows(self, file: FetchedFile) -> Iterator[FoundRow]:
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
        held_out = self._source.split in (Split.VALIDATION, Split.TEST)
        mapping, problems = column_mapping(columns, self._spec, where, held_out=held_out)
        if held_out and mapping is not None and self._chains and PARENT not in mapping.columns:
            self._note(Problem("NoParentColumn", where))
        for name in (self._spec.split.column, self._spec.split.group_by):
            if name is not None and name not in columns:
                problems.append(missing_column(name, columns, where))
        for problem in problems:
            self._note(problem)
        if mapping is not None:
            self._reading.mappings.append(mapping)
        return None if problems else mapping

    def _kept(self, row: Row, place: Place, mapping: Mapping, file: FetchedFile) -> list[Record]:
        """Return the record of a row; none where the row is out."""
        record = record_of(row, place, mapping, self._spec.roles or {})
        if isinstance(record, Problem):
            self._reject([record], _id_of(row, mapping.column(ID)))
            return []
        record = replace(record, group=self._group(row), split=self._split(row, file))
        problems = problems_of(Subject(record, mapping, self._max_bytes))
        if record.split is not None and record.split not in SPELLINGS.values():
            column = self._spec.split.column or ""
            detail = f'found "{record.split[:40]}"'
            problems.append(Problem("UnknownSplit", place.file, place.row, column, detail))
        for problem in problems:
            self._note(problem)
        out = [one for one in problems if self._reading.findings.action(one.reason) != "Accepted"]
        if out:
            self._out(out, record.id)
            return []
        return [without_trailing_turns(record)]

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

    def _reject(self, problems: list[Problem], name: str | None = None) -> None:
        for problem in problems:
            self._note(problem)
        self._out(problems, name)

    def _out(self, problems: list[Problem], name: str | None) -> None:
        self._reading.reject(problems)
        if name is not None:
            self._lost[name] = problems[0]

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


def _id_of(row: Row | Problem, column: str | None) -> str | None:
    """Return an id cell of a row as text, or None where it has none that can be read."""
    if isinstance(row, Problem) or column is None:
        return None
    try:
        return id_cell(row.cells, column)
    except UnreadableCellError:
        return None
