"""Linked rows as conversations: one per leaf, or one per row, from its root down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from finetune_api.text_settings import ChainSamples
from finetune_trainer.snapshot import Rows, TurnCells


def conversations(rows: Rows, mode: ChainSamples) -> Rows:
    """Return the conversations that linked rows form; rows that are not linked stay as they are.

    Each has the id of its last row and the system text of its root. Leaf: an answer shared by
    leaves counts in the first of them, in row order, and is context in the others. LeafRepeated: it
    counts in each. EveryRow: the row's own answer counts, its ancestors are context. Turns that do
    not count carry `"train": False`.
    """
    if not rows.parents:
        return rows
    rows = replace(rows, systems=rows.systems[:], turns=rows.turns[:])  # read once, used often
    places = {name: at for at, name in enumerate(rows.ids)}
    parents = [None if name is None else places[name] for name in rows.parents]
    inner = {parent for parent in parents if parent is not None}
    ends = range(len(rows))
    chosen = [at for at in ends if mode == ChainSamples.EVERY_ROW or at not in inner]
    learned: set[int] = set()
    systems, turns = [], []
    for end in chosen:
        path = _path(parents, end)
        counted = set(path) if mode == ChainSamples.LEAF_REPEATED else {end}
        if mode == ChainSamples.LEAF:
            counted = set(path) - learned
            learned |= counted
        systems.append(rows.systems[path[0]])
        turns.append([turn for at in path for turn in _turns(rows, at, counts=at in counted)])
    return Rows(
        ids=[rows.ids[at] for at in chosen],
        systems=systems,
        turns=turns,
        texts=[rows.texts[at] for at in chosen],
        groups=[rows.groups[at] for at in chosen],
        sources=[rows.sources[at] for at in chosen if rows.sources],
    )


def _path(parents: Sequence[int | None], end: int) -> list[int]:
    path, at = [end], parents[end]
    while at is not None:
        path.append(at)
        at = parents[at]
    return path[::-1]


def _turns(rows: Rows, at: int, *, counts: bool) -> list[TurnCells]:
    return rows.turns[at] if counts else [{**turn, "train": False} for turn in rows.turns[at]]
