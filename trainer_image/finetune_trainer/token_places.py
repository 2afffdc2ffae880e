"""Finds tokens of a text by characters, without copying millions of offsets out of the library."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding


class TokenPlaces(Protocol):
    """The ids of a text, uint32, and where they lie in it."""

    @property
    def ids(self) -> NDArray[np.uint32]:
        """The ids."""

    def starting(self, place: int) -> int:
        """Return the number of the first token that starts at `place` or behind it."""

    def covering(self, place: int) -> int:
        """Return the number of the first token that ends behind `place`."""

    def exactly(self, place: int) -> int | None:
        """Return the number of the token that starts at `place`; None inside of a token."""


class _Offsets:
    """Answers by sorted starts and ends."""

    def __init__(self, offsets: NDArray[np.int64]) -> None:
        self.starts, self.ends = offsets[:, 0], offsets[:, 1]

    def starting(self, place: int) -> int:
        return int(np.searchsorted(self.starts, place, "left"))

    def covering(self, place: int) -> int:
        return int(np.searchsorted(self.ends, place, "right"))


class EncodedText:
    """One text encoded at once; the library itself is asked for the few places that count."""

    def __init__(self, encoding: Encoding) -> None:
        self._encoding = encoding
        self.ids = np.array(encoding.ids, np.uint32)

    def starting(self, place: int) -> int:
        """Return the number of the first token that starts at `place` or behind it."""
        token = self._encoding.char_to_token(place)
        if token is None:
            return self._offsets.starting(place)
        found = self._encoding.token_to_chars(token)
        starts_here = found is not None and found[0] >= place
        return int(token if starts_here else token + 1)

    def covering(self, place: int) -> int:
        """Return the number of the first token that ends behind `place`."""
        token = self._encoding.char_to_token(place)
        return self._offsets.covering(place) if token is None else int(token)

    def exactly(self, place: int) -> int | None:
        """Return the number of the token that starts at `place`; None inside of a token."""
        token = self.starting(place)
        return token if token == self.covering(place) else None

    @cached_property
    def _offsets(self) -> _Offsets:
        return _Offsets(np.array(self._encoding.offsets, np.int64).reshape(-1, 2))


class PiecedText:
    """One text whose pieces, each with its first character, were encoded apart."""

    def __init__(self, pieces: Iterable[tuple[int, Encoding]]) -> None:
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for start, piece in pieces:
            ids += piece.ids
            offsets += [(start + low, start + high) for low, high in piece.offsets]
        self.ids = np.array(ids, np.uint32)
        self._offsets = _Offsets(np.array(offsets, np.int64).reshape(-1, 2))

    def starting(self, place: int) -> int:
        """Return the number of the first token that starts at `place` or behind it."""
        return self._offsets.starting(place)

    def covering(self, place: int) -> int:
        """Return the number of the first token that ends behind `place`."""
        return self._offsets.covering(place)

    def exactly(self, place: int) -> int | None:
        """Return the number of the token that starts at `place`; None inside of a token."""
        token = self.starting(place)
        return token if token == self.covering(place) else None
