"""Divides records into train, validation and test so that nothing of a group crosses.

Groups are ordered by a hash of (seed, group), so a record stays where it was when others are
added, and exact copies, which share their group, are never on both sides.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from finetune_api.dataset import SplitShares
from finetune_trainer.record import Record, short_hash

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)
SPELLINGS = {
    "train": TRAIN,
    "training": TRAIN,
    "validation": VALIDATION,
    "valid": VALIDATION,
    "val": VALIDATION,
    "dev": VALIDATION,
    "eval": VALIDATION,
    "test": TEST,
}


@dataclass(frozen=True)
class Divided:
    """The split and the group of every record, in the order of the records."""

    splits: list[str]
    groups: list[str]

    def members(self, split: str) -> list[int]:
        """Return the positions of the records of a split."""
        return [place for place, name in enumerate(self.splits) if name == split]


def divided(records: Sequence[Record], shares: SplitShares) -> Divided:
    """Return the split of every record: its own, or by the hash order of its group."""
    groups = [_group(record) for record in records]
    fixed = {record.split for record in records if record.split}
    sizes: dict[str, int] = defaultdict(int)
    for record, group in zip(records, groups, strict=True):
        if record.split is None:
            sizes[group] += 1
    order = sorted(sizes, key=lambda group: short_hash(shares.seed, "split", group))
    held_out = _held_out(order, sizes, shares, fixed)
    splits = [
        record.split or held_out.get(group, TRAIN)
        for record, group in zip(records, groups, strict=True)
    ]
    return Divided(splits=splits, groups=groups)


def _held_out(
    order: list[str], sizes: dict[str, int], shares: SplitShares, fixed: set[str]
) -> dict[str, str]:
    """Return the groups that are not trained on; a split that the data gives is not cut again."""
    chosen: dict[str, str] = {}
    validation = 0 if VALIDATION in fixed else _count(shares.validation, len(order))
    test = 0 if TEST in fixed else _count(shares.test, len(order))
    rows = 0
    for group in order[:validation]:
        if shares.max_validation_rows and rows + sizes[group] > shares.max_validation_rows:
            continue
        rows += sizes[group]
        chosen[group] = VALIDATION
    chosen |= dict.fromkeys(order[validation : validation + test], TEST)
    return chosen


def _count(share: float, groups: int) -> int:
    return max(1, round(share * groups)) if share > 0 and groups > 1 else 0


def _group(record: Record) -> str:
    if record.group is not None:
        return short_hash("group", record.group)
    if record.tree is not None:
        return short_hash("tree", record.place.source, record.tree)
    return short_hash("content", record.content())


def sampled(rows: Sequence[int], limit: int | None, seed: int, source: str) -> set[int]:
    """Return at most `limit` row numbers; a smaller sample is part of a larger one."""
    if limit is None or len(rows) <= limit:
        return set(rows)
    order = sorted(rows, key=lambda row: short_hash(seed, "sample", source, row))
    return set(order[:limit])


def sampled_groups(
    groups: Sequence[str], seed: int, *, share: float = 1.0, rows: int | None = None
) -> set[str]:
    """Return the first groups of their hash order: a share of them, or as many as `rows` hold.

    `groups` names the group of every row. At least one group is kept, and whole ones only; a
    smaller sample is part of a larger one.
    """
    sizes = Counter(groups)
    order = sorted(sizes, key=lambda group: short_hash(seed, "sample", group))
    if rows is None:
        return set(order[: max(1, round(share * len(order)))])
    loads = accumulate(sizes[group] for group in order)
    fitting = sum(load <= rows for load in loads)
    return set(order[: max(1, fitting)])
