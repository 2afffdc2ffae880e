"""How rows spell a record: one reader per layout, each making a canonical record or problems."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from finetune_api.dataset import Layout, Role
from finetune_trainer import column_mapping as parts
from finetune_trainer.findings import Problem, shortened
from finetune_trainer.formats import EXCERPT, Row, is_text
from finetune_trainer.record import Place, Record, Turn

ALIASES = {
    "system": Role.SYSTEM,
    "user": Role.USER,
    "human": Role.USER,
    "prompter": Role.USER,
    "assistant": Role.ASSISTANT,
    "gpt": Role.ASSISTANT,
    "bot": Role.ASSISTANT,
    "model": Role.ASSISTANT,
    "tool": Role.TOOL,
}
"""Spellings of roles that need no `spec.roles`."""
TRAIN_KEYS = ("train", "weight")
"""Keys of a turn that keep it out of the loss when they are false or 0."""
KINDS = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
}
"""What a cell that is no text is called."""


@dataclass(frozen=True)
class Content:
    """The parts of a record, before anybody asked where it lies."""

    system: str | None = None
    turns: tuple[Turn, ...] = ()
    text: str | None = None
    id: str | None = None
    parent: str | None = None


class UnreadableCellError(Exception):
    """A cell does not hold what its part needs."""

    def __init__(self, reason: str, column: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.column, self.detail = reason, column, detail


LayoutReader = Callable[[Mapping[str, Any], parts.Mapping, Mapping[str, Role]], Content]


def record_of(
    row: Row, place: Place, mapping: parts.Mapping, roles: Mapping[str, Role]
) -> Record | Problem:
    """Return the record of a row, or the problem that stops it from being one."""
    try:
        content = LAYOUTS[mapping.layout](row.cells, mapping, roles)
    except UnreadableCellError as error:
        excerpt = cells_excerpt(row)
        return Problem(
            error.reason, place.file, row.number, error.column, error.detail, "", excerpt
        )
    return Record(
        place=place,
        system=content.system,
        turns=content.turns,
        text=content.text,
        id=content.id or given_id(row.cells, mapping),
        parent=content.parent,
    )


def cells_excerpt(row: Row) -> str:
    """Return the beginning of a row, for the report."""
    text = " | ".join(f"{name}: {value}" for name, value in row.cells.items())
    return shortened(text.encode("utf-8", "replace").decode(), EXCERPT)


def columns_content(
    cells: Mapping[str, Any], mapping: parts.Mapping, _roles: Mapping[str, Role]
) -> Content:
    """Read one column per part: prompt columns are joined, blank ones skipped."""
    pieces = [text_cell(cells, column) for column in mapping.columns[parts.PROMPT]]
    prompt = mapping.separator.join(piece for piece in pieces if piece.strip())
    answer = text_cell(cells, mapping.columns[parts.ANSWER][0])
    turns = (Turn(Role.USER, prompt), Turn(Role.ASSISTANT, answer))
    return Content(system=_system(cells, mapping), turns=turns)


def parent_chain_content(
    cells: Mapping[str, Any], mapping: parts.Mapping, roles: Mapping[str, Role]
) -> Content:
    """Read one exchange per row, with its id and the id of the row before it."""
    row = columns_content(cells, mapping, roles)
    name, parent = (id_cell(cells, mapping.columns[part][0]) for part in (parts.ID, parts.PARENT))
    if name is None:
        raise UnreadableCellError("NotText", mapping.columns[parts.ID][0], "found no id")
    return replace(row, id=name, parent=parent)


def plain_text_content(
    cells: Mapping[str, Any], mapping: parts.Mapping, _roles: Mapping[str, Role]
) -> Content:
    """Read one document per row."""
    return Content(text=text_cell(cells, mapping.columns[parts.DOCUMENT][0]))


def messages_content(
    cells: Mapping[str, Any], mapping: parts.Mapping, roles: Mapping[str, Role]
) -> Content:
    """Read a list of turns; a system turn at the front is the system text."""
    column = mapping.columns[parts.MESSAGES][0]
    value = cells.get(column)
    if not isinstance(value, list) or not value:
        raise UnreadableCellError("WrongCellType", column)
    turns = tuple(_turns(value, column, roles))
    system = _system(cells, mapping)
    if turns[0].role == Role.SYSTEM:
        return Content(system=turns[0].content or system, turns=turns[1:])
    return Content(system=system, turns=turns)


def _turns(value: list[Any], column: str, roles: Mapping[str, Role]) -> Iterator[Turn]:
    for turn in value:
        if not isinstance(turn, dict) or turn.get("tool_calls"):
            raise UnreadableCellError("WrongCellType", column)
        spelling = turn.get("role", turn.get("from"))
        content = turn.get("content", turn.get("value"))
        if not isinstance(spelling, str) or not isinstance(content, str) or not is_text(content):
            raise UnreadableCellError("WrongCellType", column)
        role = roles.get(spelling) or ALIASES.get(spelling.lower())
        if role is None:
            raise UnreadableCellError("UnknownRole", column, f'"{shortened(spelling, 40)}"')
        flags = [turn[key] for key in TRAIN_KEYS if turn.get(key) is not None]
        if not all(isinstance(flag, bool | int | float) for flag in flags):
            raise UnreadableCellError("WrongCellType", column)
        yield Turn(role.value, content, all(flags))


def _system(cells: Mapping[str, Any], mapping: parts.Mapping) -> str | None:
    column = mapping.column(parts.SYSTEM)
    text = text_cell(cells, column) if column else ""
    return text if text.strip() else None


def text_cell(cells: Mapping[str, Any], column: str) -> str:
    """Return the text of a cell; an absent or null one is empty."""
    value = cells.get(column)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UnreadableCellError("NotText", column, f"found {_kind(value)}")
    if not is_text(value):
        raise UnreadableCellError("NotUtf8", column, "half a surrogate pair")
    return value


def given_id(cells: Mapping[str, Any], mapping: parts.Mapping) -> str | None:
    """Return the id that a row has by itself, or None."""
    column = mapping.column(parts.ID)
    return None if column is None else id_cell(cells, column)


def id_cell(cells: Mapping[str, Any], column: str) -> str | None:
    """Return an id as text: 12, 12.0 and "12" are the same id; an empty cell is none."""
    value = cells.get(column)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UnreadableCellError("NotText", column, f"found {_kind(value)}")
    text = str(value).strip()
    whole = re.fullmatch(r"(-?\d+)\.0+", text)
    return whole[1] if whole else text


def _kind(value: Any) -> str:
    return KINDS.get(type(value), type(value).__name__)


LAYOUTS: dict[Layout, LayoutReader] = {
    Layout.MESSAGES: messages_content,
    Layout.COLUMNS: columns_content,
    Layout.PARENT_CHAIN: parent_chain_content,
    Layout.PLAIN_TEXT: plain_text_content,
}
