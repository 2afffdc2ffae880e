"""Renders conversations with one template; `render` is a pure function of the messages.

The same function renders for training, evaluation, sample answers, export and card.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from finetune_trainer.errors import ConfigurationError
from finetune_trainer.template_sandbox import FAULTS, MARK_BEGINS, MARK_ENDS, compiled, rendered

Message = dict[str, Any]
"""`role` and `content`; `train: False` marks a turn that is never supervised."""

MARKS = {
    "system": "mark1sys",
    "user": "mark2usr",
    "assistant": "mark3ast",
    "tool": "mark4tol",
}
"""Words that must come back when a template renders each role."""
_BORDERS = re.compile("[\ue0f1\ue0f2]")
"""Characters for private use that stand around generated text while its place is looked up."""


class TemplateUnsuitableError(ConfigurationError):
    """The chat template cannot be used with this data."""

    reason = "TemplateUnsuitable"


@dataclass(frozen=True)
class SpecialTokens:
    """Texts of the special tokens that templates use; a missing one is empty."""

    begin: str = ""
    end: str = ""
    begin_is_added: bool = False
    """begin_is_added: the tokenizer itself puts the begin token in front of a text."""
    all: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ChatTemplate:
    """A template by name."""

    name: str
    source: str
    tokens: SpecialTokens = field(default_factory=SpecialTokens)
    stops: tuple[str, ...] = ()
    """stops are texts other than special tokens that end an answer."""

    def render(self, messages: Sequence[Message], *, prompt: bool = False) -> str:
        """Return the text of the messages; `prompt` adds what stands before an answer.

        Raises TemplateUnsuitableError when the template fails or its output has no end.
        """
        return self._rendered(messages, {"add_generation_prompt": prompt})

    def generated(self, messages: Sequence[Message]) -> list[tuple[int, int]] | None:
        """Return where the template marks generated text, in characters of `render(messages)`.

        None where it marks nothing: then every answer counts whole.
        """
        if "endgeneration" not in self.source:
            return None
        if any(_BORDERS.search(one["content"]) for one in messages):
            return None
        text = self._rendered(messages, {MARK_BEGINS: "\ue0f1", MARK_ENDS: "\ue0f2"})
        places = [found.start() - number for number, found in enumerate(_BORDERS.finditer(text))]
        return list(zip(places[::2], places[1::2], strict=True))

    def _rendered(self, messages: Sequence[Message], variables: Mapping[str, Any]) -> str:
        plain = [
            {name: one[name] for name in one if name != "train"} if "train" in one else one
            for one in messages
        ]
        known = {
            "messages": plain,
            "add_generation_prompt": False,
            "bos_token": self.tokens.begin,
            "eos_token": self.tokens.end,
        }
        try:
            return rendered(self.source, {**known, **variables})
        except FAULTS as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> TemplateUnsuitableError:
        fault = f"{type(error).__name__}: {str(error)[:120]}".removesuffix(": ")
        return TemplateUnsuitableError(
            f"spec.prompt.template: {self.name} fails with {fault}; set prompt.template to ChatML "
            "or Raw, or adapt the data"
        )

    def check_roles(self, roles: Sequence[str]) -> None:
        """Render every role the data uses with a mark; raise when a mark does not come back."""
        for role in roles:
            if MARKS[role] not in self._rendered_marks(role):
                raise TemplateUnsuitableError(
                    f"spec.prompt.template: template {self.name} has no {role} role; {_fold(role)}"
                )

    def between(self, before: str | None, role: str) -> str | None:
        """Return the text between the contents of two turns in a row; None where it varies."""
        return self._between.get((before, role))

    def behind(self, role: str) -> str:
        """Return the text behind the content of the last turn."""
        turns = {"system": ["system"], "user": ["user"], "tool": ["user", "tool"]}
        text = self._marked(turns.get(role, ["user", "assistant"]))
        return text.rpartition(MARKS[role])[2]

    def probe(self) -> str:
        """Return a rendering that shows what the template writes around every usual turn."""
        turns = ["user", "assistant", "user"]
        return "".join(
            self._marked(roles, prompt=True) for roles in (turns, ["system", *turns[:1]])
        )

    @cached_property
    def _between(self) -> Mapping[tuple[str | None, str], str]:
        found: dict[tuple[str | None, str], str] = {}
        for turns in (
            ["user", "assistant", "user"],
            ["system", "user", "assistant"],
            ["user", "tool", "assistant", "tool"],
        ):
            text, behind = self._marked(turns), 0
            for before, role in zip([None, *turns], turns, strict=False):
                place = text.find(MARKS[role], behind)
                if place < 0:
                    break
                found.setdefault((before, role), text[behind:place])
                behind = place + len(MARKS[role])
        return found

    def _marked(self, turns: Sequence[str], *, prompt: bool = False) -> str:
        """Return the rendering of marks; empty where the template refuses such turns."""
        messages = [{"role": one, "content": MARKS[one]} for one in turns]
        try:
            return self.render(messages, prompt=prompt)
        except TemplateUnsuitableError:
            return ""

    def _rendered_marks(self, role: str) -> str:
        turns = ["user", "assistant", *(["tool", "assistant"] if role == "tool" else [])]
        if role == "system":
            turns = ["system", *turns]
        if role in {"system", "tool"}:
            return self._marked(turns)
        return self.render([{"role": one, "content": MARKS[one]} for one in turns])

    def checked(self) -> ChatTemplate:
        """Return this template; raise TemplateUnsuitableError where its text cannot be read."""
        try:
            compiled(self.source)
        except FAULTS as error:
            raise self._failure(error) from error
        return self

    def with_prefix(self, prefix: str) -> ChatTemplate:
        """Return a template whose text begins with `prefix`."""
        return replace(self, source=prefix + self.source)


def _fold(role: str) -> str:
    remedies: Mapping[str, str] = {
        "system": "fold it into the first user turn, or remove the system column and prompt.system",
        "tool": "remove the tool turns, or set prompt.template to ChatML",
    }
    return remedies.get(role, "set prompt.template to ChatML or Raw")
