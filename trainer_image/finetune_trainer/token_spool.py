"""Keeps encoded samples on the scratch disk, and only numbers about them in memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.encode import Sample

CHUNK_TOKENS = 1 << 20
FACTS = np.dtype(
    [
        *(("row", "u4"), ("number", "u4"), ("of", "u4"), ("spool", "u1")),
        *(("start", "i8"), ("length", "i8"), ("supervised", "i8")),
        *(("context", "i8"), ("answer", "i8"), ("turn", "i8"), ("turns", "i8")),
        ("largest", "u4"),
        *(("ends", "?"), ("adjusted", "?"), ("control", "?")),
    ]
)
"""One sample: its record, which of how many renderings, where it lies, what it holds."""

Table = NDArray[Any]
"""Samples as an array of `FACTS`."""


@dataclass(frozen=True)
class Entry:
    """A sample, its record, and which of how many samples of that record it is."""

    row: int
    sample: Sample
    number: int = 0
    of: int = 1


class TokenSpool:
    """Appends samples to two files; each ends where the next one starts."""

    FILES: ClassVar = ("tokens-0", "flags-0", "turns-0", "samples-0")
    """Names of all that makes up spool 0."""

    def __init__(self, folder: Path, number: int) -> None:
        self._number, self._end = number, 0
        self._paths = (folder / f"tokens-{number}", folder / f"flags-{number}")
        self._tables: list[Table] = []
        self._turns = array("q")

    @classmethod
    def of_files(cls, folder: Path) -> TokenSpool:
        """Return spool 0 from the files that `files` gave; nothing may be added any more.

        Raises ValueError where they cannot belong together.
        """
        spool = cls(folder, 0)
        table = np.fromfile(folder / "samples-0", FACTS)
        spool._tables.append(table)
        spool._turns.frombytes((folder / "turns-0").read_bytes())
        length, turns = int(table["length"].sum()), int(table["turns"].sum())
        if (len(spool.tokens), len(spool.flags), len(spool.turns)) != (length, length, turns):
            raise ValueError(f"{folder.name}: tokens, flags and turns are not those of its samples")
        return spool

    def files(self) -> Iterator[tuple[str, Iterator[bytes]]]:
        """Yield names and contents of what makes up spool 0; nothing may be added any more."""
        arrays: tuple[NDArray[Any], ...] = (self.tokens, self.flags, self.turns, self.table())
        for name, values in zip(self.FILES, arrays, strict=True):
            yield name, _chunks(values)

    def add(self, entries: Sequence[Entry]) -> None:
        """Write samples behind those that are there."""
        with self._paths[0].open("ab") as tokens, self._paths[1].open("ab") as flags:
            for entry in entries:
                tokens.write(entry.sample.ids.tobytes())
                flags.write(entry.sample.flags.tobytes())
        self._tables.append(np.array([self._facts(entry) for entry in entries], FACTS))

    def table(self) -> Table:
        """Return the facts of all samples in the order they came."""
        return np.concatenate(self._tables) if self._tables else np.zeros(0, FACTS)

    @cached_property
    def tokens(self) -> NDArray[np.uint32]:
        """Return all ids; nothing may be added any more."""
        return _mapped(self._paths[0], np.uint32)

    @cached_property
    def flags(self) -> NDArray[np.uint8]:
        """Return all flags; nothing may be added any more."""
        return _mapped(self._paths[1], np.uint8)

    @cached_property
    def turns(self) -> NDArray[np.int64]:
        """Return int64[K, 2]: the first token inside its sample and the role of every turn."""
        return np.array(self._turns, np.int64).reshape(-1, 2)

    def _facts(self, entry: Entry) -> tuple[Any, ...]:
        sample, start, turn = entry.sample, self._end, len(self._turns) // 2
        self._end += len(sample.ids)
        for one in sample.turns:
            self._turns.extend(one)
        return (
            *(entry.row, entry.number, entry.of, self._number),
            *(start, len(sample.ids), sample.supervised, sample.context, sample.answer),
            *(turn, len(sample.turns), int(sample.ids.max(initial=0))),
            *(sample.ends, sample.adjusted, sample.control),
        )


@dataclass(frozen=True)
class SpooledSamples:
    """The samples of a split in their order, taken from one or more spools."""

    spools: Sequence[TokenSpool]
    table: Table

    def __len__(self) -> int:
        return len(self.table)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Return the tokens of every sample."""
        lengths: NDArray[np.int64] = self.table["length"]
        return lengths

    @property
    def supervised(self) -> NDArray[np.int64]:
        """Return the supervised tokens of every sample."""
        supervised: NDArray[np.int64] = self.table["supervised"]
        return supervised

    def tokens(self) -> Iterator[NDArray[np.uint32]]:
        """Yield all ids back to back."""
        for spool, start, end in self._runs():
            yield self.spools[spool].tokens[start:end]

    def flags(self) -> Iterator[NDArray[np.uint8]]:
        """Yield all flags back to back."""
        for spool, start, end in self._runs():
            yield self.spools[spool].flags[start:end]

    def turns(self) -> Iterator[NDArray[np.int64]]:
        """Yield int64[K, 2] per sample: places in all tokens, and roles, of its turns."""
        behind = 0
        for one in self.table:
            first = int(one["turn"])
            found = self.spools[int(one["spool"])].turns[first : first + int(one["turns"])]
            yield found + np.array([behind, 0])
            behind += int(one["length"])

    def _runs(self) -> Iterator[tuple[int, int, int]]:
        """Yield spool, start and end of pieces, as long as they lie in one row, up to a chunk."""
        table = self.table
        ends = table["start"] + table["length"]
        breaks = (table["spool"][1:] != table["spool"][:-1]) | (table["start"][1:] != ends[:-1])
        borders = [0, *(np.flatnonzero(breaks) + 1).tolist(), len(table)]
        for first, behind in pairwise(borders):
            if first == behind:
                continue
            low, high = int(table["start"][first]), int(ends[behind - 1])
            for start in range(low, high, CHUNK_TOKENS):
                yield int(table["spool"][first]), start, min(start + CHUNK_TOKENS, high)


def _chunks(values: NDArray[Any]) -> Iterator[bytes]:
    for start in range(0, len(values), CHUNK_TOKENS):
        yield values[start : start + CHUNK_TOKENS].tobytes()


def _mapped(path: Path, dtype: type[np.generic]) -> NDArray[Any]:
    if not path.exists() or path.stat().st_size == 0:
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, "r")
