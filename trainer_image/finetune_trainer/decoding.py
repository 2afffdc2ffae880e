"""How an answer is made: which token comes next, and what ends a row."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from finetune_trainer.plan import GENERATE, mix

if TYPE_CHECKING:
    from finetune_api.evaluation_settings import Generation

FRACTION_BITS = 53


@dataclass(frozen=True)
class Prompt:
    """A prompt as token ids; its random numbers belong to `id`, not to its place in a batch."""

    id: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Decoding:
    """How the next token is chosen and when a row ends; None leaves a rule out."""

    max_new_tokens: int
    stop: frozenset[int]
    """stop are all ids that end an answer: the model's own list and the template's end."""
    stop_texts: tuple[str, ...] = ()
    min_new_tokens: int = 0
    max_time_seconds: int = 0
    """max_time_seconds of an answer; 0 = off."""
    seed: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    num_beams: int = 1
    repetition_penalty: float = 1.0

    def uniforms(self, prompt: Prompt, first: int, count: int) -> list[float]:
        """Return numbers in [0, 1) for the new tokens `first`… of a prompt.

        They are counted, not drawn in turn: batch, rank and restart change none of them.
        """
        stream = zlib.crc32(prompt.id.encode())
        return [
            (mix(self.seed, GENERATE, stream, first + number) >> (64 - FRACTION_BITS))
            / (1 << FRACTION_BITS)
            for number in range(count)
        ]


def decoding_of(
    generation: Generation, seed: int, stop: Iterable[int], stop_texts: Iterable[str]
) -> Decoding:
    """Return `spec.generation` with the ids and texts that end an answer of this model."""
    return Decoding(
        max_new_tokens=generation.max_new_tokens,
        min_new_tokens=generation.min_new_tokens,
        max_time_seconds=generation.max_time_seconds,
        stop=frozenset(stop),
        stop_texts=tuple(dict.fromkeys([*stop_texts, *(generation.stop_strings or ())])),
        seed=seed,
        do_sample=generation.do_sample,
        temperature=generation.temperature or 1.0,
        top_k=generation.top_k,
        top_p=generation.top_p,
        min_p=generation.min_p,
        num_beams=generation.num_beams,
        repetition_penalty=generation.repetition_penalty,
    )
