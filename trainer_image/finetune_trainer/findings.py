"""What can be wrong with data: one table of checks, and the list that a pass collects.

Every finding names file, column and record numbers, what is expected and what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from finetune_api.dataset import Checks
from finetune_api.dataset_status import Finding

Severity = Literal["Error", "Policy", "Notice"]

FIRST_ROWS = 5
MAX_FINDINGS = 20
MAX_MESSAGE = 256


@dataclass(frozen=True)
class Check:
    """One kind of finding: how it is told, and which field of `checks` decides about it."""

    id: str
    severity: Severity
    finding: str
    """finding may use {column}, {count}, {total}, {rows} and {detail}."""
    expected: str
    fix: str
    policy: str | None = None


CHECKS: dict[str, Check] = {
    "DigestMismatch": Check(
        "V-03", "Error", "{detail}", "the pinned content", "restore the file or change the pin"
    ),
    "UnsupportedFormat": Check(
        "V-04",
        "Error",
        "{detail}",
        "csv, tsv, json, jsonl, parquet, txt, each also as .gz",
        "convert the file, or set format",
    ),
    "NotUtf8": Check(
        "V-05",
        "Policy",
        "{count} of {total} rows are not UTF-8 (first: {rows}; {detail})",
        "UTF-8",
        "convert the file, or declare csv.encoding",
        "invalid_row",
    ),
    "ParseError": Check(
        "V-06",
        "Policy",
        "{count} of {total} rows cannot be read (first: {rows}; {detail})",
        "one complete row each",
        "correct the rows, or set checks.invalidRow: Drop",
        "invalid_row",
    ),
    "TooFewRows": Check(
        "V-08", "Error", "{detail}", "at least checks.minRows", "add data, or change the checks"
    ),
    "WrongCellType": Check(
        "V-09",
        "Policy",
        'column "{column}": {count} of {total} cells are not lists of turns (first: {rows})',
        "a list of {{role, content}} with text",
        "store JSON lists, not Python text",
        "invalid_row",
    ),
    "RowTooLarge": Check(
        "V-10",
        "Policy",
        "{count} rows are too large (first: {rows}; {detail})",
        "at most checks.maxRowSize",
        "split the documents, or set checks.rowTooLarge: Drop",
        "row_too_large",
    ),
    "MissingColumn": Check("V-11", "Error", "{detail}", "the mapped columns", "{detail_fix}"),
    "AmbiguousColumns": Check(
        "V-12", "Error", "{detail}", "one column per part", "map it explicitly in spec.columns"
    ),
    "DuplicateColumn": Check(
        "V-13", "Error", 'column "{column}" occurs twice', "unique names", "rename one"
    ),
    "EmptyColumnName": Check(
        "V-14", "Error", "column {detail} has no name", "a name for each column", "add a header"
    ),
    "EmptyAnswer": Check(
        "V-16",
        "Policy",
        'column "{column}": {count} of {total} rows have no text (first: {rows})',
        "non-empty text",
        "fill them, or set checks.emptyAnswer: Drop",
        "empty_answer",
    ),
    "EmptyPrompt": Check(
        "V-17",
        "Policy",
        'column "{column}": {count} of {total} rows are blank (first: {rows})',
        "at least one part with text",
        "fill them, or set checks.emptyPrompt: Drop",
        "empty_prompt",
    ),
    "NotText": Check(
        "V-18",
        "Policy",
        'column "{column}": {count} of {total} values are not text (first: {rows}; {detail})',
        "text",
        "write them as text, or set checks.invalidRow: Drop",
        "invalid_row",
    ),
    "DamagedText": Check(
        "V-19",
        "Notice",
        "{count} rows hold replacement or control characters (first: {rows})",
        "readable text",
        "check the encoding of the export",
    ),
    "UnknownRole": Check(
        "V-21",
        "Policy",
        'column "{column}": role {detail} in {count} conversations (first: {rows})',
        "system, user, assistant, tool or an alias",
        "map it in spec.roles",
        "invalid_row",
    ),
    "NoAnswerTurn": Check(
        "V-22",
        "Policy",
        'column "{column}": {count} conversations have no assistant turn (first: {rows})',
        "at least one",
        "add answers, or set checks.noAnswerTurn: Drop",
        "no_answer_turn",
    ),
    "TurnOrder": Check(
        "V-23",
        "Policy",
        'column "{column}": {count} conversations have roles out of order (first: {rows}; '
        "{detail})",
        "optional system, then user and assistant in turn",
        "join turns, or set checks.turnOrder: Drop or Accept",
        "turn_order",
    ),
    "TrailingTurns": Check(
        "V-24",
        "Notice",
        "{count} conversations end without an answer; what follows the last answer is removed "
        "(first: {rows})",
        "an assistant turn at the end",
        "none needed",
    ),
    "UnknownSplit": Check(
        "V-52",
        "Policy",
        'column "{column}": {count} rows name no split (first: {rows}; {detail})',
        "train, validation or test",
        "correct them, or set checks.invalidRow: Drop",
        "invalid_row",
    ),
    "EmptySplit": Check(
        "V-53", "Error", "{detail}", "at least 1 record", "raise the share, or add data"
    ),
    "GroupAcrossSplits": Check(
        "V-54",
        "Notice",
        "{count} groups lie in two splits, as the data says (first: {rows})",
        "one split per group",
        "correct the split column or the sources",
    ),
    "Leakage": Check(
        "V-55",
        "Notice",
        "{count} held-out rows occur in training (first: {rows})",
        "none",
        "remove them from one of the sources",
    ),
    "Duplicates": Check(
        "V-56",
        "Policy",
        "{count} of {total} rows are exact copies (first: {rows})",
        "unique rows",
        "set checks.duplicates: Drop",
        "duplicates",
    ),
    "FewRecords": Check(
        "V-65", "Notice", "{detail}", "1,000 or more is a usual start", "none needed"
    ),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One row, or one file, with one finding."""

    reason: str
    file: str
    row: int | None = None
    column: str = ""
    detail: str = ""
    fix: str = ""
    excerpt: str = ""
    """excerpt of the row goes to the report only: it may be personal."""


@dataclass
class Collected:
    """Every problem of one kind in one column of one file."""

    first: Problem
    count: int = 0
    rows: list[int] = field(default_factory=list)


class Findings:
    """Collects the problems of a pass and decides by `checks` what becomes of each."""

    def __init__(self, checks: Checks) -> None:
        self._checks = checks
        self._kinds: dict[tuple[str, str, str], Collected] = {}
        self.totals: dict[str, int] = {}
        """totals are the rows read per file."""

    def add(self, problem: Problem) -> str:
        """Note a problem; return what happens to its record: Failed, Dropped or Accepted."""
        key = (problem.reason, problem.file, problem.column)
        kind = self._kinds.setdefault(key, Collected(problem))
        kind.count += 1
        if problem.row is not None and len(kind.rows) < FIRST_ROWS:
            kind.rows.append(problem.row)
        return self.action(problem.reason)

    def action(self, reason: str) -> str:
        """Return what the checks say about a finding: Failed, Dropped or Accepted."""
        check = CHECKS[reason]
        if check.severity == "Error":
            return "Failed"
        if check.severity == "Notice":
            return "Accepted"
        chosen = getattr(self._checks, check.policy or "policy") or self._checks.policy
        return {"Fail": "Failed", "Drop": "Dropped", "Accept": "Accepted"}[chosen]

    @property
    def failed(self) -> bool:
        """Tell whether any finding ends the job."""
        return any(self.action(reason) == "Failed" for reason, _, _ in self._kinds)

    def listed(self) -> list[Finding]:
        """Return the findings, those that fail first, then the most frequent."""
        found = [self._finding(kind) for kind in self._kinds.values()]
        order = {"Failed": 0, "Dropped": 1, "Accepted": 2}
        return sorted(found, key=lambda one: (order[one.action], -one.count, one.reason))

    def _finding(self, kind: Collected) -> Finding:
        problem, check = kind.first, CHECKS[kind.first.reason]
        return Finding(
            id=check.id,
            reason=problem.reason,
            severity=check.severity,
            count=kind.count,
            rows=kind.rows,
            message=self._message(kind),
            action=self.action(problem.reason),
        )

    def _message(self, kind: Collected) -> str:
        problem, check = kind.first, CHECKS[kind.first.reason]
        values = {
            "column": problem.column[:40],
            "count": f"{kind.count:,}",
            "total": f"{self.totals.get(problem.file, kind.count):,}",
            "rows": ", ".join(map(str, kind.rows)),
            "detail": problem.detail,
            "detail_fix": problem.fix,
        }
        finding = check.finding.format(**values)
        text = (
            f"{problem.reason}: {problem.file}, {finding}. "
            f"Expected: {check.expected.format(**values)}. Fix: {check.fix.format(**values)}."
        )
        return shortened(text, MAX_MESSAGE)


def shortened(text: str, limit: int) -> str:
    """Return at most `limit` characters of a text, its end marked when it is cut."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def only_failed(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that end the job."""
    return [finding for finding in findings if finding.action == "Failed"]
