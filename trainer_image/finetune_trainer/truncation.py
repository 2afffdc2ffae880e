"""Makes samples fit the length limits: what goes first, what goes last, and what was lost.

In this order until it fits: the oldest complete exchanges after the system text; the beginning of
the last user text; the end of the system text; the end of the answer and with it its end token,
which is then not supervised. User and system text keep at least an eighth of the limit. Cuts lie
inside texts at token borders and the text is rendered again: markers and headers are never cut.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from finetune_trainer.chat_template import Message
from finetune_trainer.encode import SUPERVISED, Encoder, Sample
from finetune_trainer.text_tokenizer import TextTokenizer

TRIES = 4
"""Times a text is cut again because its new rendering was not exactly as long as counted."""

Excess = Callable[[Sequence[Message]], int]
"""Returns how many tokens too many the rendering of messages has; 0 or less where it fits."""


@dataclass(frozen=True)
class Limits:
    """Most tokens of a sample, of what stands before its last answer, and of that answer."""

    whole: int
    prompt: int | None = None
    answer: int | None = None

    @property
    def least(self) -> int:
        """Return the tokens that user and system text keep: an eighth of the context's limit."""
        return min(self.whole, self.prompt or self.whole) // 8

    def end_of(self, sample: Sample) -> int:
        """Return where a sample ends once its answer is cut to its own limit."""
        if self.answer is None or sample.answer <= self.answer:
            return len(sample.ids)
        return sample.context + self.answer

    def excess(self, sample: Sample) -> int:
        """Return the tokens that must go before the answer for everything to fit."""
        beyond = self.end_of(sample) - self.whole
        return max(beyond, sample.context - self.prompt) if self.prompt else beyond


@dataclass(frozen=True)
class Cut:
    """What was taken from one sample."""

    turns: int = 0
    user: bool = False
    system: bool = False
    answer: bool = False
    tokens: int = 0
    fits: bool = True
    """fits is False where the context stays too long whatever the order allows to take."""


@dataclass(frozen=True)
class Shortener:
    """Shortens the messages of one conversation."""

    tokenizer: TextTokenizer
    least: int
    excess: Excess

    def shortened(self, messages: Sequence[Message]) -> tuple[list[Message], Cut]:
        """Return messages that fit, or are as short as the order allows, and what was taken."""
        kept = self._without_oldest(list(messages))
        cut = Cut(turns=len(messages) - len(kept))
        users = [at for at, one in enumerate(kept) if one["role"] == "user"]
        if users and self.excess(kept) > 0:
            kept, changed = self._cut(kept, users[-1], from_start=True)
            cut = replace(cut, user=changed)
        if kept and kept[0]["role"] == "system" and self.excess(kept) > 0:
            kept, changed = self._cut(kept, 0, from_start=False)
            cut = replace(cut, system=changed)
        return kept, cut

    def _without_oldest(self, messages: list[Message]) -> list[Message]:
        """Return the messages without as many of their oldest exchanges as must go."""
        users = [at for at, one in enumerate(messages) if one["role"] == "user"]

        def without(number: int) -> list[Message]:
            return [*messages[: users[0]], *messages[users[number] :]] if users else messages

        last = max(0, len(users) - 1)
        gone = bisect_left(range(last), True, key=lambda number: self.excess(without(number)) <= 0)
        return without(gone)

    def _cut(
        self, messages: list[Message], at: int, *, from_start: bool
    ) -> tuple[list[Message], bool]:
        before = messages
        for _ in range(TRIES):
            excess = self.excess(messages)
            text = messages[at]["content"]
            shorter = self._shorter(text, excess, from_start=from_start) if excess > 0 else text
            if shorter == text:
                break
            changed: Message = {**messages[at], "content": shorter}
            messages = [*messages[:at], changed, *messages[at + 1 :]]
        return messages, messages is not before

    def _shorter(self, text: str, excess: int, *, from_start: bool) -> str:
        spans = self.tokenizer.backend.encode(text, add_special_tokens=False).offsets
        keep = max(self.least, len(spans) - excess, 1)
        if keep >= len(spans):
            return text
        return text[spans[len(spans) - keep][0] :] if from_start else text[: spans[keep - 1][1]]


def fitted(
    encoder: Encoder, messages: Sequence[Message], limits: Limits, length: int | None = None
) -> tuple[Sample, Cut]:
    """Return the sample of a conversation cut to the limits, and what was taken.

    `length` is the number of tokens of the whole conversation, where it is known.
    """
    seen: dict[tuple[str, ...], Sample] = {}

    def sample(kept: Sequence[Message]) -> Sample:
        texts = tuple(one["content"] for one in kept)
        if texts not in seen:
            seen[texts] = next(encoder.encoded(encoder.renderings(kept)[-1:]))
        return seen[texts]

    shortener = Shortener(encoder.tokenizer, limits.least, lambda kept: limits.excess(sample(kept)))
    kept, cut = shortener.shortened(messages)
    fitting = sample(kept)
    fits = limits.prompt is None or fitting.context <= limits.prompt
    fitting, answer = cut_end(fitting, min(limits.whole, limits.end_of(fitting)))
    lost = (len(sample(messages).ids) if length is None else length) - len(fitting.ids)
    return fitting, replace(cut, answer=answer, tokens=lost, fits=fits)


def fitted_prompt(encoder: Encoder, messages: Sequence[Message], limit: int) -> list[int]:
    """Return the ids of a prompt cut in the same order; as at inference, an answer follows."""

    def ids(kept: Sequence[Message]) -> list[int]:
        return encoder.tokenizer.ids(encoder.context(kept))

    shortener = Shortener(encoder.tokenizer, limit // 8, lambda kept: len(ids(kept)) - limit)
    kept, _ = shortener.shortened(messages)
    return ids(kept)[-limit:]


def cut_end(sample: Sample, limit: int) -> tuple[Sample, bool]:
    """Return a sample without what lies behind the limit, and whether that was supervised.

    What is left of a cut answer has no end token, so no end is learned there.
    """
    cut = bool(np.any(sample.flags[limit:] & SUPERVISED))
    return replace(
        sample,
        ids=sample.ids[:limit],
        flags=sample.flags[:limit],
        ends=sample.ends and not cut,
        answer=max(0, min(sample.answer, limit - sample.context)),
        turns=tuple((at, role) for at, role in sample.turns if at < limit),
    ), cut
