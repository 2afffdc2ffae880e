"""The checks of a record's content: what must hold before anybody trains on it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from finetune_api.dataset import Role
from finetune_trainer.column_mapping import ANSWER, DOCUMENT, MESSAGES, PROMPT, Mapping
from finetune_trainer.findings import Problem, shortened
from finetune_trainer.record import Record

DAMAGED = re.compile("[\ufffd\x00-\x08\x0b\x0c\x0e-\x1f]")
FOLLOWS: dict[str, set[str]] = {
    "": {Role.USER},
    Role.USER: {Role.ASSISTANT},
    Role.ASSISTANT: {Role.USER, Role.TOOL},
    Role.TOOL: {Role.TOOL, Role.ASSISTANT},
}
"""Roles that may come after a role."""
EXCERPT = 300


@dataclass(frozen=True)
class Subject:
    """A record under examination, with the names of its columns and the limits."""

    record: Record
    mapping: Mapping
    max_bytes: int

    def problem(self, reason: str, column: str = "", detail: str = "") -> Problem:
        """Return a problem of this record."""
        place = self.record.place
        excerpt = shortened(plain(self.record), EXCERPT)
        return Problem(reason, place.file, place.row, column, detail, "", excerpt)

    def column(self, part: str) -> str:
        """Return the columns of a part, or the column of turns."""
        names = self.mapping.columns.get(part) or self.mapping.columns.get(MESSAGES) or ("",)
        return ", ".join(names)


RecordCheck = Callable[[Subject], Iterator[Problem]]


def problems_of(subject: Subject) -> list[Problem]:
    """Return everything that is wrong with a record."""
    return [problem for check in RECORD_CHECKS for problem in check(subject)]


def without_trailing_turns(record: Record) -> Record:
    """Return the record up to its last answer; nothing could be learned from what follows."""
    answers = [place for place, turn in enumerate(record.turns) if turn.role == Role.ASSISTANT]
    if not answers or answers[-1] == len(record.turns) - 1:
        return record
    return replace(record, turns=record.turns[: answers[-1] + 1])


def plain(record: Record) -> str:
    """Return a record as one text."""
    if record.text is not None:
        return record.text
    system = [f"system: {record.system}"] if record.system else []
    return " | ".join([*system, *(f"{turn.role}: {turn.content}" for turn in record.turns)])


def every_answer_has_text(subject: Subject) -> Iterator[Problem]:
    """An empty answer would teach the model to stop at once."""
    answers = [turn for turn in subject.record.turns if turn.role == Role.ASSISTANT]
    if any(not turn.content.strip() for turn in answers):
        yield subject.problem("EmptyAnswer", subject.column(ANSWER))


def every_prompt_has_text(subject: Subject) -> Iterator[Problem]:
    """A blank prompt or document says nothing."""
    record = subject.record
    if record.text is not None:
        if not record.text.strip():
            yield subject.problem("EmptyPrompt", subject.column(DOCUMENT))
    elif any(not turn.content.strip() for turn in record.turns if turn.role == Role.USER):
        yield subject.problem("EmptyPrompt", subject.column(PROMPT))


def a_conversation_has_an_answer(subject: Subject) -> Iterator[Problem]:
    """Without an assistant turn nothing is trained."""
    record = subject.record
    if record.text is None and all(turn.role != Role.ASSISTANT for turn in record.turns):
        yield subject.problem("NoAnswerTurn", subject.column(MESSAGES))


def roles_come_in_order(subject: Subject) -> Iterator[Problem]:
    """Chat templates know optional system, then user and assistant in turn."""
    before = ""
    for number, turn in enumerate(subject.record.turns, 1):
        if turn.role not in FOLLOWS[before]:
            found = f"turn {number} is {turn.role}" + (f" after {before}" if before else "")
            yield subject.problem("TurnOrder", subject.column(MESSAGES), found)
            return
        before = turn.role


def the_last_turn_is_an_answer(subject: Subject) -> Iterator[Problem]:
    """Turns behind the last answer are removed, which is told."""
    turns = subject.record.turns
    if (
        turns
        and turns[-1].role != Role.ASSISTANT
        and without_trailing_turns(subject.record) is not subject.record
    ):
        yield subject.problem("TrailingTurns")


def the_record_is_not_too_large(subject: Subject) -> Iterator[Problem]:
    """One huge row would cost the memory of thousands."""
    text = plain(subject.record)
    if 4 * len(text) > subject.max_bytes and len(text.encode()) > subject.max_bytes:
        size = len(text.encode())
        yield subject.problem("RowTooLarge", detail=f"{size:,} bytes of {subject.max_bytes:,}")


def the_text_is_readable(subject: Subject) -> Iterator[Problem]:
    """Replacement characters tell of an export with a wrong encoding."""
    if DAMAGED.search(plain(subject.record)):
        yield subject.problem("DamagedText")


RECORD_CHECKS: tuple[RecordCheck, ...] = (
    every_prompt_has_text,
    every_answer_has_text,
    a_conversation_has_an_answer,
    roles_come_in_order,
    the_last_turn_is_an_answer,
    the_record_is_not_too_large,
    the_text_is_readable,
)
