"""Makes samples fit the length limit: what goes first, what goes last, and what was lost.

In this order until it fits: the oldest complete exchanges after the system text; the beginning of
the last user text; the end of the system text; the end of the answer and with it its end token,
which is then not supervised. User and system text keep at least an eighth of the limit. Cuts lie
inside texts at token borders and the text is rendered again: markers and headers are never cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from finetune_trainer.chat_template import Message
from finetune_trainer.encode import Encoder, Sample
from finetune_trainer.text_tokenizer import TextTokenizer

TRIES = 4
"""Times a text is cut again because its new rendering was not exactly as long as counted."""

Length = Callable[[Sequence[Message]], int]


@dataclass(frozen=True)
class Cut:
    """What was taken from one sample."""

    turns: int = 0
    user: bool = False
    system: bool = False
    answer: bool = False
    tokens: int = 0


@dataclass(frozen=True)
class Shortener:
    """Shortens the messages of one conversation; `length` counts tokens as rendered."""

    tokenizer: TextTokenizer
    limit: int
    length: Length

    def shortened(self, messages: Sequence[Message]) -> tuple[list[Message], Cut]:
        """Return messages that fit, or are as short as the order allows, and what was taken."""
        kept = list(messages)
        while self.length(kept) > self.limit and (fewer := _without_oldest(kept)):
            kept = fewer
        cut = Cut(turns=len(messages) - len(kept))
        users = [at for at, one in enumerate(kept) if one["role"] == "user"]
        if users and self.length(kept) > self.limit:
            kept, changed = self._cut(kept, users[-1], from_start=True)
            cut = replace(cut, user=changed)
        if kept and kept[0]["role"] == "system" and self.length(kept) > self.limit:
            kept, changed = self._cut(kept, 0, from_start=False)
            cut = replace(cut, system=changed)
        return kept, cut

    def _cut(
        self, messages: list[Message], at: int, *, from_start: bool
    ) -> tuple[list[Message], bool]:
        before = messages
        for _ in range(TRIES):
            excess = self.length(messages) - self.limit
            text = messages[at]["content"]
            shorter = self._shorter(text, excess, from_start=from_start) if excess > 0 else text
            if shorter == text:
                break
            changed: Message = {**messages[at], "content": shorter}
            messages = [*messages[:at], changed, *messages[at + 1 :]]
        return messages, messages is not before

    def _shorter(self, text: str, excess: int, *, from_start: bool) -> str:
        spans = self.tokenizer.backend.encode(text, add_special_tokens=False).offsets
        keep = max(self.limit // 8, len(spans) - excess)
        if keep >= len(spans):
            return text
        return text[spans[len(spans) - keep][0] :] if from_start else text[: spans[keep - 1][1]]


def fitted(encoder: Encoder, messages: Sequence[Message], limit: int) -> tuple[Sample, Cut]:
    """Return the sample of a conversation cut to the limit, and what was taken."""

    def sample(kept: Sequence[Message]) -> Sample:
        return next(encoder.encoded(encoder.renderings(kept)[-1:]))

    whole = sample(messages)
    shortener = Shortener(encoder.tokenizer, limit, lambda kept: len(sample(kept).ids))
    kept, cut = shortener.shortened(messages)
    fitting = sample(kept)
    answer = len(fitting.ids) > limit
    if answer:
        fitting = cut_end(fitting, limit)
    return fitting, replace(cut, answer=answer, tokens=len(whole.ids) - len(fitting.ids))


def fitted_prompt(encoder: Encoder, messages: Sequence[Message], limit: int) -> list[int]:
    """Return the ids of a prompt cut in the same order; as at inference, an answer follows."""

    def ids(kept: Sequence[Message]) -> list[int]:
        return encoder.tokenizer.ids(encoder.context(kept))

    shortener = Shortener(encoder.tokenizer, limit, lambda kept: len(ids(kept)))
    kept, _ = shortener.shortened(messages)
    return ids(kept)[-limit:]


def cut_end(sample: Sample, limit: int) -> Sample:
    """Return a sample without what lies behind the limit; it has no end token any more."""
    return replace(sample, ids=sample.ids[:limit], flags=sample.flags[:limit], ends=False)


def _without_oldest(messages: list[Message]) -> list[Message]:
    """Return the messages without their oldest exchange; nothing when only one is left."""
    users = [at for at, one in enumerate(messages) if one["role"] == "user"]
    if len(users) < 2:
        return []
    return [*messages[: users[0]], *messages[users[1] :]]
