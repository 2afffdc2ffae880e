"""The canonical record: what every layout becomes and everything after it works with."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import NamedTuple

CONVERSATION = "Conversation"
TEXT = "Text"


class Turn(NamedTuple):
    """One turn of a conversation; the role is user, assistant or tool."""

    role: str
    content: str
    train: bool = True
    """train is false where the data says that nothing is to be learned from the turn."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row was read: its source, its file and its number in each, counted from 1."""

    source: str
    file: str
    row: int
    number: int
    """number counts through all files of the source; row within the file, as findings do."""


@dataclass(frozen=True, slots=True)
class Record:
    """A conversation (turns, perhaps with a system text) or a document (text)."""

    place: Place
    system: str | None = None
    turns: tuple[Turn, ...] = ()
    text: str | None = None
    group: str | None = None
    """group is the cell that keeps records together; None = the content itself."""
    split: str | None = None
    """split is train, validation or test where the source or a column says so."""
    id: str | None = None
    """id as the data gives it."""
    parent: str | None = None
    """parent is the id of the row that comes before, in the same conversation."""
    tree: str | None = None
    """tree is the id of the root row, for linked rows."""

    def content(self) -> bytes:
        """Return bytes that are equal exactly for equal content, wherever it was read."""
        turns = [turn[:2] if turn.train else turn for turn in self.turns]
        parts: object = self.text if self.text is not None else [self.system, turns]
        if self.tree is not None:  # a row of a conversation is no copy of a row of another
            parts = [parts, self.id, self.parent]
        return json.dumps(parts, ensure_ascii=False, separators=(",", ":")).encode(
            "utf-8", "surrogatepass"
        )

    def prompt_text(self) -> str:
        """Return everything before the last answer, as plain text."""
        return "\n".join(turn.content for turn in self.turns[:-1])

    def answer_text(self) -> str:
        """Return the last answer, or the document."""
        return self.text if self.text is not None else self.turns[-1].content


def short_hash(*parts: str | bytes | int) -> str:
    """Return 16 hexadecimal digits that depend on all parts and their borders."""
    hashed = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
        hashed.update(len(data).to_bytes(8, "little"))
        hashed.update(data)
    return hashed.hexdigest()[:16]
