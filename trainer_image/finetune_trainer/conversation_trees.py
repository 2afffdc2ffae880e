"""Joins rows that name their parents to conversation trees, and says what is wrong with them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from finetune_trainer.findings import Problem, shortened
from finetune_trainer.record import Record

MAX_DEPTH = 1000
SHOWN_IDS = 6

Note = Callable[[Problem], str]
"""Takes a finding; returns what the checks say about it: Failed, Dropped or Accepted."""


@dataclass
class Trees:
    """The rows of one source: those that belong to a tree, and those that are out, with why."""

    records: list[Record]
    out: dict[int, Problem] = field(default_factory=dict)

    @property
    def kept(self) -> list[Record]:
        """Return the rows that stay, in their order; each knows its root."""
        return [record for at, record in enumerate(self.records) if at not in self.out]


def joined(records: Sequence[Record], lost: Mapping[str, Problem], note: Note) -> Trees:
    """Give every row the system text, group and split of its root.

    `lost` are rows that are out already, by id: their descendants follow them without a finding of
    their own, and so do those of rows that are found wrong here.
    """
    trees = Trees(list(records))
    places: dict[str | None, int] = {}
    for at, record in enumerate(records):
        if places.setdefault(record.id, at) != at:
            _reject(trees, at, "DuplicateId", note, f'"{shortened(record.id or "", 40)}"')
    known = any(record.parent in places for record in records)
    if not known and any(record.parent is not None for record in records):
        note(Problem("NoChain", records[0].place.file))
        return trees
    children, roots = _children(trees, places, lost, note)
    if not roots:
        note(Problem("NoRoot", records[0].place.file))
    reached = _descend(trees, children, roots, note)
    _note_cycles(trees, places, reached, note)
    return trees


def root_numbers(ids: Sequence[str | None], parents: Sequence[str | None]) -> list[int]:
    """Return the number of every row's root, or of the row where a cycle was entered."""
    places = {name: at for at, name in reversed(list(enumerate(ids))) if name is not None}
    roots: dict[int, int] = {}
    for start in range(len(ids)):
        path, at = [], start
        while at not in roots and at not in path:
            path.append(at)
            parent = parents[at]
            at = places.get(parent, at) if parent is not None else at
        roots |= dict.fromkeys(path, roots.get(at, at))
    return [roots[at] for at in range(len(ids))]


def _children(
    trees: Trees, places: Mapping[str | None, int], lost: Mapping[str, Problem], note: Note
) -> tuple[dict[int, list[int]], list[int]]:
    """Return the children of every row, and the rows that begin a conversation."""
    children: dict[int, list[int]] = defaultdict(list)
    roots = []
    for at, record in enumerate(trees.records):
        if at in trees.out:
            continue
        if record.parent is None:
            roots.append(at)
        elif record.parent == record.id:
            _reject(trees, at, "SelfParent", note)
            roots.append(at)
        elif record.parent in places:
            children[places[record.parent]].append(at)
        elif record.parent in lost:
            trees.out[at] = replace(lost[record.parent], row=record.place.row)
            roots.append(at)
        else:
            named = f'"{shortened(record.parent, 40)}"'
            if _reject(trees, at, "UnknownParent", note, named) == "Accepted":
                del trees.out[at]
                trees.records[at] = replace(record, parent=None)
            roots.append(at)
    return children, roots


def _descend(
    trees: Trees, children: Mapping[int, list[int]], roots: Sequence[int], note: Note
) -> set[int]:
    """Hand down what the root says; return the rows that some root leads to."""
    waiting = [(root, root, 1) for root in reversed(roots)]
    reached = set()
    while waiting:
        at, root, depth = waiting.pop()
        reached.add(at)
        head, record = trees.records[root], trees.records[at]
        trees.records[at] = replace(record, tree=head.id, group=head.group, split=head.split)
        if depth > MAX_DEPTH and at not in trees.out:
            _reject(trees, at, "ChainTooDeep", note)
        for child in children.get(at, ()):
            if at in trees.out:
                trees.out[child] = replace(trees.out[at], row=trees.records[child].place.row)
            waiting.append((child, root, depth + 1))
    return reached


def _note_cycles(
    trees: Trees, places: Mapping[str | None, int], reached: set[int], note: Note
) -> None:
    """Report every cycle once; rows that hang on one are out with it."""
    left = [at for at in range(len(trees.records)) if at not in reached and at not in trees.out]
    for start in left:
        path: list[int] = []
        at = start
        while at not in path and at not in trees.out:
            path.append(at)
            at = places[trees.records[at].parent]
        if at in path:
            ring = path[path.index(at) :]
            names = [trees.records[one].id or "" for one in [*ring[:SHOWN_IDS], ring[0]]]
            detail = " → ".join(shortened(name, 40) for name in names)
            _reject(trees, min(ring), "ChainCycle", note, detail)
        problem = trees.out[min(ring) if at in path else at]
        for one in path:
            trees.out.setdefault(one, replace(problem, row=trees.records[one].place.row))


def _reject(trees: Trees, at: int, reason: str, note: Note, detail: str = "") -> str:
    place = trees.records[at].place
    trees.out[at] = Problem(reason, place.file, place.row, "", detail)
    return note(trees.out[at])
