"""Pieces of tensors: rows that one rank holds of a tensor that all ranks share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from finetune_trainer.errors import DataError


@dataclass(frozen=True)
class Piece:
    """Rows `first` to `first + len(tensor)` of a tensor of `shape`; a scalar is always whole."""

    name: str
    tensor: Tensor
    shape: tuple[int, ...]
    first: int = 0

    @property
    def is_whole(self) -> bool:
        """Tell whether these are all rows."""
        return tuple(self.tensor.shape) == self.shape


Source = Iterable[Piece] | Callable[[Mapping[str, Piece]], Iterable[Piece]]
"""Pieces, or what yields those that have something for given targets."""


def whole(name: str, tensor: Tensor) -> Piece:
    """Return a tensor that is held completely."""
    return Piece(name, tensor, tuple(tensor.shape))


def overlap(first: int, rows: int, other_first: int, other_rows: int) -> range:
    """Return the rows, counted in the whole tensor, that two pieces have in common."""
    return range(max(first, other_first), min(first + rows, other_first + other_rows))


def overlaps(target: Piece | None, first: int, shape: Sequence[int]) -> bool:
    """Tell whether a piece of this first row and own shape has anything for a target."""
    if target is None:
        return False
    return not shape or bool(overlap(target.first, len(target.tensor), first, shape[0]))


def fill(targets: Mapping[str, Piece], source: Source) -> None:
    """Copy what the targets' rows need out of pieces cut in any other way.

    Raises DataError (CheckpointIncomplete) when rows of a target were in no piece, or shapes
    differ. Pieces that nobody asked for are passed over.
    """
    missing = {name: target.tensor.numel() for name, target in targets.items()}
    for piece in source(targets) if callable(source) else source:
        target = targets.get(piece.name)
        if target is None:
            continue
        if piece.shape != target.shape:
            raise _incomplete(f"{piece.name} has shape {piece.shape}, not {target.shape}")
        missing[piece.name] -= _copied(target, piece)
    lacking = sorted(name for name, count in missing.items() if count)
    if lacking:
        raise _incomplete(f"rows of {', '.join(lacking[:3])} are missing")


def _copied(target: Piece, piece: Piece) -> int:
    if not target.shape:
        target.tensor.copy_(piece.tensor)
        return 1
    rows = overlap(target.first, len(target.tensor), piece.first, len(piece.tensor))
    if not rows:
        return 0
    own, theirs = rows.start - target.first, rows.start - piece.first
    target.tensor[own : own + len(rows)].copy_(piece.tensor[theirs : theirs + len(rows)])
    return len(rows) * prod(target.shape[1:])


def _incomplete(what: str) -> DataError:
    return DataError(
        f"checkpoint: {what}; it was written by another model or is damaged; start anew",
        reason="DigestMismatch",
    )


def filled(shapes: Mapping[str, tuple[int, ...]], source: Source) -> dict[str, Tensor]:
    """Return whole float32 tensors of these shapes from a source."""
    targets = {name: whole(name, torch.empty(shape)) for name, shape in shapes.items()}
    fill(targets, source)
    return {name: one.tensor for name, one in targets.items()}
