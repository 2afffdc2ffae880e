"""Records to token ids and supervision, decided by position, never by token id.

The context of an answer is tokenised exactly as at inference; what follows it is the answer. The
end-of-turn token that the template puts behind an answer is supervised, template text behind that
is not. Source of the rules: what serving does, so that training and use see the same ids.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from tokenizers import Encoding

from finetune_trainer.chat_template import ChatTemplate, Message, TemplateUnsuitableError
from finetune_trainer.text_tokenizer import TextTokenizer

SUPERVISED, CONTENT, LAST_ANSWER = 1, 2, 4
"""Bits of a token's flags: it counts in the loss; it is text of a turn; of the last answer."""


@dataclass(frozen=True)
class Answer:
    """Where an answer lies in a rendering, in characters."""

    context_end: int
    content_start: int
    content_end: int
    end: int
    """end is behind the end-of-turn token."""


@dataclass(frozen=True)
class Rendering:
    """The text of one sample and the answers in it that are supervised."""

    text: str
    answers: tuple[Answer, ...]
    contents: tuple[tuple[int, int], ...] = ()
    """contents are the spans of the texts of all turns."""
    whole: bool = False
    """whole: every token is supervised, as in documents."""


@dataclass(frozen=True)
class Sample:
    """One encoded sample: as many flags as ids."""

    ids: array[int]
    flags: bytes
    adjusted: bool = False
    """adjusted: a token would have crossed the border between context and answer."""
    ends: bool = True
    """ends: the template puts an end-of-turn token behind every supervised answer."""

    @property
    def supervised(self) -> int:
        """Return the number of supervised tokens; the first one is predicted by nobody."""
        return int(np.count_nonzero(np.frombuffer(self.flags, np.uint8)[1:] & SUPERVISED))


class Encoder:
    """Renders and tokenises with one template and one tokenizer."""

    def __init__(
        self, tokenizer: TextTokenizer, template: ChatTemplate, *, only_last: bool = False
    ) -> None:
        self.tokenizer, self.template, self._only_last = tokenizer, template, only_last
        self._ends = sorted(tokenizer.special.all | {tokenizer.special.end} - {""}, key=len)[::-1]

    def renderings(self, messages: Sequence[Message]) -> list[Rendering]:
        """Return the text of a conversation; one per answer where later turns rewrite earlier."""
        places = [at for at, one in enumerate(messages) if one["role"] == "assistant"]
        chosen = places[-1:] if self._only_last else places
        text = self.template.render(messages)
        answers = [self._answer(messages, at, text) for at in chosen]
        contents = _contents(text, messages)
        if all(text.startswith(whole[: answer.end]) for whole, answer in answers):
            return [Rendering(text, tuple(answer for _, answer in answers), contents)]
        return [
            Rendering(whole, (answer,), _contents(whole, messages[: at + 1]))
            for at, (whole, answer) in zip(chosen, answers, strict=True)
        ]

    def document(self, text: str) -> Rendering:
        """Return the rendering of a document: begin token as configured, text, end token."""
        special = self.tokenizer.special
        begin = special.begin if special.begin_is_added else ""
        span = (len(begin), len(begin) + len(text))
        return Rendering(f"{begin}{text}{special.end}", (), (span,), whole=True)

    def context(self, messages: Sequence[Message]) -> str:
        """Return what the model sees before it answers the messages."""
        return self.template.render(messages, prompt=True)

    def encoded(self, renderings: Sequence[Rendering]) -> Iterator[Sample]:
        """Yield the sample of every rendering."""
        contexts = [one.text[: answer.context_end] for one in renderings for answer in one.answers]
        context_ids = self.tokenizer.encode_ids(contexts)
        wholes = self.tokenizer.encode([one.text for one in renderings])
        for rendering, whole in zip(renderings, wholes, strict=True):
            starts = [next(context_ids) for _ in rendering.answers]
            yield self._sample(rendering, whole, starts)

    def _answer(self, messages: Sequence[Message], at: int, text: str) -> tuple[str, Answer]:
        """Return the rendering that ends with an answer, and where the answer lies in it."""
        context = self.context(messages[:at])
        whole = text if at == len(messages) - 1 else self.template.render(messages[: at + 1])
        content = messages[at]["content"]
        if not whole.startswith(context):
            raise TemplateUnsuitableError(
                f"prompt.template: {self.template.name} renders the turns before an answer "
                "differently once the answer is there; set prompt.template to ChatML or Raw"
            )
        start = whole.find(content, len(context))
        if start < 0:
            content = content.strip()
            start = whole.find(content, len(context))
        if start < 0:
            raise TemplateUnsuitableError(
                f"prompt.template: {self.template.name} drops or rewrites the text of an answer; "
                "set prompt.template to ChatML or Raw"
            )
        behind = start + len(content)
        return whole, Answer(len(context), start, behind, self._end(whole, behind))

    def _end(self, whole: str, behind: int) -> int:
        """Return the place behind the end-of-turn token, or behind the last visible character."""
        found = [(whole.find(token, behind), token) for token in self._ends]
        inside = [(place, -len(token), token) for place, token in found if place >= 0]
        if inside:
            place, _, token = min(inside)
            return place + len(token)
        return behind + len(whole[behind:].rstrip())

    def _sample(
        self, rendering: Rendering, whole: Encoding, contexts: Sequence[list[int]]
    ) -> Sample:
        ids, spans = whole.ids, whole.offsets
        adjusted = any(ids[: len(context)] != context for context in contexts)
        if adjusted:
            ids, spans = self._by_pieces(rendering)
        flags = _flags(rendering, spans)
        ends = all(answer.end > answer.content_end for answer in rendering.answers)
        return Sample(array("I", ids), flags, adjusted, ends)

    def _by_pieces(self, rendering: Rendering) -> tuple[list[int], list[tuple[int, int]]]:
        """Tokenise context and answer apart, so that no token crosses their border."""
        cuts = [0, *(answer.context_end for answer in rendering.answers), len(rendering.text)]
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        for start, end in pairwise(cuts):
            piece = self.tokenizer.backend.encode(
                rendering.text[start:end], add_special_tokens=False
            )
            ids += piece.ids
            spans += [(start + first, start + last) for first, last in piece.offsets]
        return ids, spans


def _flags(rendering: Rendering, spans: Sequence[tuple[int, int]]) -> bytes:
    places = np.array(spans, np.int64).reshape(-1, 2)
    starts, ends = places[:, 0], places[:, 1]
    flags = np.zeros(len(places), np.uint8)
    for low, high in rendering.contents:
        flags[(starts >= low) & (ends <= high)] |= CONTENT
    if rendering.whole:
        flags[starts >= rendering.contents[0][0]] |= SUPERVISED
    for answer in rendering.answers:
        last = LAST_ANSWER if answer is rendering.answers[-1] else 0
        flags[(starts >= answer.context_end) & (starts < answer.end)] |= SUPERVISED | last
    return flags.tobytes()


def _contents(text: str, messages: Sequence[Message]) -> tuple[tuple[int, int], ...]:
    """Return where the text of every turn lies; turns whose text was rewritten are left out."""
    spans, behind = [], 0
    for message in messages:
        content = message["content"]
        place = text.find(content, behind)
        if place >= 0 and content:
            spans.append((place, place + len(content)))
            behind = place + len(content)
    return tuple(spans)
