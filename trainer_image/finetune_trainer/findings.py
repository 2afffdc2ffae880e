"""Collects what is wrong with data and decides by the checks what becomes of each record.

Every finding names file, column and record numbers, what is expected and what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from finetune_api.dataset import Checks
from finetune_api.dataset_status import Finding
from finetune_trainer.finding_kinds import CHECKS

FIRST_ROWS = 5
MAX_FINDINGS = 20
MAX_MESSAGE = 256


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
