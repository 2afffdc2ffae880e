"""Decides which layout a source has and which column plays which part; names win over guesses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from finetune_api.dataset import Columns, DatasetSpec, Layout, RecordType
from finetune_api.dataset_status import ColumnStatus
from finetune_trainer.findings import Problem, shortened

MESSAGES, SYSTEM, PROMPT, ANSWER, DOCUMENT = "messages", "system", "prompt", "answer", "text"
ID, PARENT = "id", "parentId"

NAMES: dict[str, tuple[str, ...]] = {
    MESSAGES: ("messages", "conversations", "conversation"),
    SYSTEM: ("system", "system_prompt"),
    PROMPT: ("instruction", "prompt", "question", "input", "user", "query"),
    ANSWER: ("output", "answer", "response", "completion", "assistant"),
    DOCUMENT: ("text", "content", "document"),
    ID: ("id", "ID", "message_id", "index"),
    PARENT: ("parent_id", "parent"),
}
"""Columns recognised when no mapping is given, per part of a record."""


@dataclass(frozen=True)
class Shape:
    """What a layout needs: the parts that must have a column, and those that may."""

    record_type: RecordType
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


SHAPES: dict[Layout, Shape] = {
    Layout.MESSAGES: Shape(RecordType.CONVERSATION, (MESSAGES,), (SYSTEM,)),
    Layout.COLUMNS: Shape(RecordType.CONVERSATION, (PROMPT, ANSWER), (SYSTEM,)),
    Layout.PARENT_CHAIN: Shape(RecordType.CONVERSATION, (ID, PARENT, PROMPT, ANSWER), (SYSTEM,)),
    Layout.PLAIN_TEXT: Shape(RecordType.TEXT, (DOCUMENT,)),
}


@dataclass(frozen=True)
class Mapping:
    """The layout of a source and the columns of each part; only the prompt may have several."""

    layout: Layout
    record_type: RecordType
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    given: frozenset[str] = frozenset()
    separator: str = "\n\n"

    def column(self, part: str) -> str | None:
        """Return the first column of a part, or None when it has none."""
        return self.columns[part][0] if part in self.columns else None

    def status(self) -> list[ColumnStatus]:
        """Return the mapping as status shows it."""
        return [
            ColumnStatus(role=part, column=", ".join(names)[:256], detected=part not in self.given)
            for part, names in self.columns.items()
        ]


def column_mapping(
    columns: Sequence[str], spec: DatasetSpec, file: str, *, held_out: bool = False
) -> tuple[Mapping | None, list[Problem]]:
    """Return the mapping of a source with these columns, or None and what is wrong.

    A source that is `held_out` may lack the parent column: its rows are single turns then.
    """
    given = _given(spec.columns or Columns())
    linked = spec.layout == Layout.PARENT_CHAIN or given.get(PARENT)
    if held_out and linked and not set(given.get(PARENT, NAMES[PARENT])) & set(columns):
        given = {part: names for part, names in given.items() if part not in (ID, PARENT)}
        if spec.layout == Layout.PARENT_CHAIN:
            spec = spec.model_copy(update={"layout": Layout.COLUMNS})
    missing = list(_unknown_columns(given, columns, file))
    if missing:
        return None, missing
    detected = {part: _candidates(part, columns) for part in NAMES if part not in given}
    found = {part: [names] for part, names in given.items() if names} | detected
    layouts = _possible(found, given, spec)
    if given.get(PARENT) and (unlinked := _unlinked(layouts, found, given, file)):
        return None, [unlinked]
    if len(layouts) != 1:
        return None, [_undecided(layouts, columns, file)]
    return _mapped(layouts[0], found, given, spec, file)


def _mapped(
    layout: Layout,
    found: dict[str, list[tuple[str, ...]]],
    given: dict[str, tuple[str, ...]],
    spec: DatasetSpec,
    file: str,
) -> tuple[Mapping | None, list[Problem]]:
    shape = SHAPES[layout]
    named = (ID,) if ID in given and ID not in shape.required else ()
    parts = [part for part in (*shape.required, *shape.optional, *named) if found.get(part)]
    problems = [
        Problem("AmbiguousColumns", file, detail=_both(part, found[part]))
        for part in parts
        if len(found[part]) > 1
    ]
    if problems:
        return None, problems
    return (
        Mapping(
            layout=layout,
            record_type=shape.record_type,
            columns={part: found[part][0] for part in parts},
            given=frozenset(given),
            separator=(spec.columns or Columns()).prompt_separator,
        ),
        [],
    )


def _unlinked(
    layouts: list[Layout],
    found: dict[str, list[tuple[str, ...]]],
    given: dict[str, tuple[str, ...]],
    file: str,
) -> Problem | None:
    """Return why a parent column that the spec maps would not link rows."""
    if not found.get(ID):
        return Problem("ParentNeedsId", file)
    if given[PARENT] == given.get(ID):
        return Problem("SameColumnTwice", file, column=given[PARENT][0])
    if layouts and Layout.PARENT_CHAIN not in layouts:
        detail = f"columns.parentId is mapped, but rows of layout {layouts[0]} are not linked"
        return Problem("AmbiguousColumns", file, detail=detail)
    return None


def _given(columns: Columns) -> dict[str, tuple[str, ...]]:
    """Return the parts that the spec maps; an empty tuple says "none"."""
    given: dict[str, tuple[str, ...]] = {}
    for part, value in (
        (MESSAGES, columns.messages),
        (ANSWER, columns.answer),
        (DOCUMENT, columns.text),
    ):
        if value is not None:
            given[part] = (value,)
    if columns.prompt is not None:
        given[PROMPT] = tuple(columns.prompt)
    for part, name in (
        (SYSTEM, columns.system),
        (ID, columns.id),
        (PARENT, columns.parent_id),
    ):
        if name is not None:
            given[part] = (name,) if name else ()
    return given


def _candidates(part: str, columns: Sequence[str]) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = [(name,) for name in NAMES[part] if name in columns]
    if part == PROMPT and "instruction" in columns and "input" in columns:
        found.remove(("input",))
        found[0] = ("instruction", "input")
    return found


def _possible(
    found: dict[str, list[tuple[str, ...]]], given: dict[str, tuple[str, ...]], spec: DatasetSpec
) -> list[Layout]:
    if spec.layout != Layout.AUTO:
        return [spec.layout] if _complete(SHAPES[spec.layout], found) else []
    wanted = {
        layout
        for layout, shape in SHAPES.items()
        if spec.record_type in (RecordType.AUTO, shape.record_type) and _complete(shape, found)
    }
    named = {layout for layout in wanted if set(SHAPES[layout].required) & set(given)}
    wanted = named or wanted
    if Layout.PARENT_CHAIN in wanted:  # its rows could be read one by one, but are linked
        wanted -= {Layout.COLUMNS}
    # A text column beside an answer or turns is one of the columns that records do not use.
    conversations = wanted - {Layout.PLAIN_TEXT}
    return sorted(conversations or wanted)


def _complete(shape: Shape, found: dict[str, list[tuple[str, ...]]]) -> bool:
    return all(found.get(part) for part in shape.required)


def _undecided(layouts: list[Layout], columns: Sequence[str], file: str) -> Problem:
    seen = shortened(", ".join(columns), 80)
    if layouts:
        detail = f"columns {seen} could be layout {' or '.join(layouts)}"
        return Problem("AmbiguousColumns", file, detail=detail)
    return Problem(
        "MissingColumn",
        file,
        detail=f"no known columns for turns, prompt and answer, or text; columns: {seen}",
        fix="map the columns in spec.columns",
    )


def _unknown_columns(
    given: dict[str, tuple[str, ...]], columns: Sequence[str], file: str
) -> Iterator[Problem]:
    for names in given.values():
        for name in names:
            if name not in columns:
                yield missing_column(name, columns, file)


def missing_column(name: str, columns: Sequence[str], file: str) -> Problem:
    """Return the finding that a mapped column does not exist, with the nearest one."""
    near = get_close_matches(name, columns, n=1, cutoff=0.7)
    fix = f'did you mean "{near[0]}"?' if near else "map a column that exists"
    seen = shortened(", ".join(columns), 80)
    detail = f'no column "{shortened(name, 40)}"; columns: {seen}'
    return Problem("MissingColumn", file, column=name, detail=detail, fix=fix)


def _both(part: str, candidates: list[tuple[str, ...]]) -> str:
    names = " and ".join(f'"{"+".join(names)}"' for names in candidates[:4])
    return f"{names} could each be the {part}"
