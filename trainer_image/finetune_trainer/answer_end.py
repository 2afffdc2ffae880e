"""Where an answer ends: at an end token, a stop text, its length or its time; row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from finetune_trainer.decoding import Decoding


class Finish(StrEnum):
    """What ended an answer."""

    END_TOKEN = "eos"  # noqa: S105 - what predictions call it
    STOP_TEXT = "stop"
    LENGTH = "length"
    TIME = "time"


@dataclass(frozen=True)
class Answer:
    """New tokens without the end token; those that spell a stop text are among them."""

    tokens: tuple[int, ...]
    finish: Finish


class AnswerEnd:
    """Judges rows by the settings; `backend` is the tokenizer (needed for texts only)."""

    def __init__(self, decoding: Decoding, backend: Any = None) -> None:
        self._decoding, self._backend = decoding, backend

    def of(self, tokens: Sequence[int], known: int, limit: int, seconds: float) -> Answer | None:
        """Return the answer if it has ended among `tokens`, of which `known` were judged before.

        `limit` is what the context leaves. The place of the end depends on the tokens alone, not
        on how often one looks; only the time limit acts where one looks.
        """
        room = min(limit, self._decoding.max_new_tokens)
        view = tokens[:room]
        end = next((i for i in range(known, len(view)) if view[i] in self._decoding.stop), None)
        spelt = self._spelt(view[:end], known)
        if spelt is not None:
            return Answer(tuple(view[:spelt]), Finish.STOP_TEXT)
        if end is not None:
            return Answer(tuple(view[:end]), Finish.END_TOKEN)
        if len(tokens) >= room:
            return Answer(tuple(view), Finish.LENGTH)
        if 0 < self._decoding.max_time_seconds <= seconds:
            return Answer(tuple(view), Finish.TIME)
        return None

    def text(self, answer: Answer) -> str:
        """Return the answer for people: no special tokens, cut before the first stop text."""
        if self._backend is None:
            return ""
        text: str = self._backend.decode(list(answer.tokens), skip_special_tokens=True)
        least = self._backend.decode(self._least(answer.tokens), skip_special_tokens=True)
        places = [self._place(text, one, len(least)) for one in self._decoding.stop_texts]
        return text[: min((place for place in places if place >= 0), default=None)].strip()

    def _spelt(self, tokens: Sequence[int], known: int) -> int | None:
        """Return how many tokens complete the first stop text."""
        if not self._decoding.stop_texts or not self._spells(tokens):
            return None
        counts = range(max(known, self._decoding.min_new_tokens), len(tokens))
        return next((n for n in counts if self._spells(tokens[:n])), len(tokens))

    def _spells(self, tokens: Sequence[int]) -> bool:
        text, least = self._decoded(tokens), len(self._decoded(self._least(tokens)))
        return any(self._place(text, one, least) >= 0 for one in self._decoding.stop_texts)

    def _least(self, tokens: Sequence[int]) -> list[int]:
        return list(tokens[: self._decoding.min_new_tokens])

    def _decoded(self, tokens: Sequence[int]) -> str:
        text: str = self._backend.decode(list(tokens), skip_special_tokens=False)
        return text

    @staticmethod
    def _place(text: str, stop: str, least: int) -> int:
        """Return where a stop text begins that ends behind the first `least` characters, or -1."""
        return text.find(stop, max(0, least - len(stop) + 1))
