"""A conversation as one text, and where in it, in characters, what is supervised lies."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from finetune_trainer.chat_template import (
    ChatTemplate,
    Message,
    TemplateUnsuitableError,
)
from finetune_trainer.supervision import ROLES, Supervision

Span = tuple[int, int]


@dataclass(frozen=True)
class Answer:
    """A supervised turn of a rendering."""

    context_end: int
    """context_end is behind everything that the model is given before it answers."""
    start: int
    """start of what is supervised: the context's end, unless the template marks less."""
    content_start: int
    content_end: int
    end: int
    """end is behind the end-of-turn token."""
    generated: bool = True
    """generated: an assistant's turn; no token may cross the border to its context."""


@dataclass(frozen=True)
class Rendering:
    """The text of one sample."""

    text: str
    answers: tuple[Answer, ...]
    contents: tuple[Span, ...] = ()
    """contents are the spans of the texts of all turns."""
    turns: tuple[tuple[int, int], ...] = ()
    """turns are start and role code of every turn, header included; only on demand."""
    whole_from: int | None = None
    """whole_from: everything from here on is supervised, as in documents."""
    untrained: tuple[Span, ...] = ()
    """untrained spans are left out of that."""
    length: int = 0
    """length is the number of messages that this text shows."""


class Renderer:
    """Renders with one template; finds what is supervised by what inference would see."""

    def __init__(
        self,
        template: ChatTemplate,
        special: frozenset[str],
        supervision: Supervision,
        *,
        with_turns: bool = False,
    ) -> None:
        self.template, self.supervision, self._with_turns = template, supervision, with_turns
        by_length = sorted((re.escape(one) for one in special if one), key=len, reverse=True)
        self._special = re.compile("|".join(by_length) or r"(?!)")
        self._behind: dict[str, str] = {}

    def renderings(self, messages: Sequence[Message]) -> list[Rendering]:
        """Return the text of a conversation; one per answer where later turns rewrite earlier.

        Raises TemplateUnsuitableError where a supervised turn cannot be found.
        """
        text = self.template.render(messages)
        places = self.supervision.places(messages)
        found = {
            at: self._answer(messages, at, text)
            for at in places
            if messages[at]["role"] == "assistant"
        }
        if all(text.startswith(whole[: answer.end]) for whole, answer in found.values()):
            answers = {at: answer for at, (_, answer) in found.items()}
            return [self._whole(text, messages, places, answers)]
        before, each = -1, []
        for at, (whole, answer) in found.items():
            own = [place for place in places if before < place <= at]
            part = self._whole(whole, messages[: at + 1], own, {at: answer})
            each.append(replace(part, whole_from=None))
            before = at
        return each

    def document(self, text: str) -> Rendering:
        """Return the rendering of a document: begin and end token as the template has them."""
        mark = "mark"
        frame = self.template.render([{"role": "assistant", "content": mark}])
        head, _, tail = frame.partition(mark)
        span = (len(head), len(head) + len(text))
        return Rendering(f"{head}{text}{tail}", (), (span,), whole_from=len(head), length=0)

    def _whole(
        self,
        text: str,
        messages: Sequence[Message],
        places: Sequence[int],
        answers: Mapping[int, Answer],
    ) -> Rendering:
        spans = self._contents(text, messages)
        marked = self.template.generated(messages) if answers else None
        chosen = [
            answers[at] if at in answers else self._other(text, messages[at]["role"], spans[at])
            for at in places
        ]
        untrained = [
            span for span, one in zip(spans, messages, strict=True) if span and "train" in one
        ]
        return Rendering(
            text,
            tuple(_marked(chosen, marked)),
            tuple(span for span in spans if span),
            tuple(self._turns(text, messages)) if self._with_turns else (),
            whole_from=self._begin(text) if self.supervision.everything else None,
            untrained=tuple(untrained) if self.supervision.everything else (),
            length=len(messages),
        )

    def _answer(self, messages: Sequence[Message], at: int, text: str) -> tuple[str, Answer]:
        """Return the rendering that ends with an answer, and where the answer lies in it."""
        context = self.template.render(messages[:at], prompt=True)
        whole = text if at == len(messages) - 1 else self.template.render(messages[: at + 1])
        content = messages[at]["content"]
        if not whole.startswith(context):
            raise TemplateUnsuitableError(
                f"spec.prompt.template: {self.template.name} renders the turns before an answer "
                "differently once the answer is there; set prompt.template to ChatML or Raw"
            )
        start = whole.find(content, len(context))
        if start < 0:
            content = content.strip()
            start = whole.find(content, len(context))
        if start < 0:
            raise self._lost("assistant")
        behind = start + len(content)
        return whole, Answer(len(context), len(context), start, behind, self._end(whole, behind))

    def _other(self, text: str, role: str, span: Span | None) -> Answer:
        """Return the place of a turn that nobody generates: its text and its end token."""
        if span is None:
            raise self._lost(role)
        if role not in self._behind:
            self._behind[role] = self.template.behind(role)
        tail = self._behind[role]
        found = self._special.search(tail)
        closing = tail[: found.end()] if found else ""
        end = span[1] + (len(closing) if text.startswith(closing, span[1]) else 0)
        return Answer(span[0], span[0], *span, end, generated=False)

    def _lost(self, role: str) -> TemplateUnsuitableError:
        return TemplateUnsuitableError(
            f"spec.prompt.template: {self.template.name} drops or rewrites the text of a turn of "
            f"role {role}; set prompt.template to ChatML or Raw"
        )

    def _end(self, whole: str, behind: int) -> int:
        """Return the place behind the end-of-turn token, or behind the last visible character."""
        found = self._special.search(whole, behind)
        return found.end() if found else behind + len(whole[behind:].rstrip())

    def _contents(self, text: str, messages: Sequence[Message]) -> list[Span | None]:
        """Return where the text of every turn lies; None where the template rewrote it."""
        spans: list[Span | None] = []
        behind, before = 0, None
        for message in messages:
            role, content = message["role"], message["content"]
            # What stands between two turns is known: a text such as "user" is not its header.
            between = self.template.between(before, role)
            place = behind + len(between or "")
            if between is None or not text.startswith(between + content, behind):
                place = text.find(content, behind)
            if place >= 0 and content:
                spans.append((place, place + len(content)))
                behind, before = place + len(content), role
            else:
                spans.append(None)
                before = "rewritten"
        return spans

    def _turns(self, text: str, messages: Sequence[Message]) -> Iterator[tuple[int, int]]:
        """Yield start and role of every turn; nothing where a turn changes those before it."""
        starts = [self._begin(text)]
        for at in range(1, len(messages)):
            try:
                before = self.template.render(messages[:at])
            except TemplateUnsuitableError:
                return
            if not text.startswith(before):
                return
            starts.append(len(before))
        for start, message in zip(starts, messages, strict=True):
            yield start, ROLES.index(message["role"])

    def _begin(self, text: str) -> int:
        begin = self.template.tokens.begin
        return len(begin) if begin and text.startswith(begin) else 0


def _marked(answers: Sequence[Answer], marked: Sequence[Span] | None) -> Iterator[Answer]:
    """Yield what is supervised inside the spans that the template marks as generated."""
    for answer in answers:
        if marked is None or not answer.generated:
            yield answer
            continue
        inside = [low for low, high in marked if high > answer.context_end and low < answer.end]
        if inside:
            yield replace(answer, start=max(answer.context_end, inside[0]))
