"""Renders conversations: the tokenizer's chat template or one of ours, in an immutable sandbox.

One function renders for training, evaluation, sample answers and export.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from finetune_api.training_settings import Template
from finetune_trainer.errors import ConfigurationError

MAX_CHARACTERS, MAX_NUMBERS = 16 << 20, 200_000
"""Bounds of one rendering: characters of its output, numbers that its ranges yield."""
MAX_BASE, MAX_EXPONENT = 1_000_000, 8
Message = dict[str, str]

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
RAW = (
    "{{ begin_token }}{% for message in messages %}{{ message.content }}"
    "{% if message.role == 'system' %}{{ '\n\n' }}"
    "{% elif message.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)
"""Prompt, answer, end token: the end token follows answers only, the system text a blank line."""
OWN = {Template.CHATML: CHATML, Template.RAW: RAW}
MARKS = {
    "system": "mark1sys",
    "user": "mark2usr",
    "assistant": "mark3ast",
    "tool": "mark4tol",
}
"""Words that must come back when a template renders each role."""


TEMPLATE_FAULTS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What running a template can raise; whatever else comes is not the template's fault."""


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
    """A template by name; `render` is a pure function of the messages."""

    name: str
    source: str
    tokens: SpecialTokens = field(default_factory=SpecialTokens)

    def render(self, messages: Sequence[Message], *, prompt: bool = False) -> str:
        """Return the text of the messages; `prompt` adds what stands before an answer.

        Raises TemplateUnsuitableError when the template fails or its output has no end.
        """
        parts, size = [], 0
        try:
            for part in self._compiled.generate(
                messages=messages,
                add_generation_prompt=prompt,
                range=_BoundedRange(),
                bos_token=self.tokens.begin,
                eos_token=self.tokens.end,
                begin_token=self.tokens.begin if self.tokens.begin_is_added else "",
            ):
                parts.append(part)
                size += len(part)
                if size > MAX_CHARACTERS:
                    raise TemplateUnsuitableError(
                        f"prompt.template: {self.name} renders more than {MAX_CHARACTERS:,} "
                        "characters; use another template"
                    )
        except TEMPLATE_FAULTS as error:
            raise TemplateUnsuitableError(
                f"prompt.template: {self.name} fails with {_fault(error)}; set prompt.template to "
                "ChatML or Raw, or adapt the data"
            ) from error
        return "".join(parts)

    def check_roles(self, roles: Sequence[str]) -> None:
        """Render every role the data uses with a mark; raise when a mark does not come back."""
        for role in roles:
            if MARKS[role] not in self._rendered_marks(role):
                raise TemplateUnsuitableError(
                    f"prompt.template: the template of this model has no {role} role; {_fold(role)}"
                )

    def _rendered_marks(self, role: str) -> str:
        turns = ["user", "assistant", *(["tool", "assistant"] if role == "tool" else [])]
        if role == "system":
            turns = ["system", *turns]
        try:
            return self.render([{"role": one, "content": MARKS[one]} for one in turns])
        except TemplateUnsuitableError:
            if role in {"system", "tool"}:
                return ""
            raise

    @cached_property
    def _compiled(self) -> jinja2.Template:
        try:
            return _sandbox().from_string(self.source)
        except jinja2.TemplateError as error:
            raise TemplateUnsuitableError(
                f"prompt.template: {self.name} cannot be read: {_fault(error)}; set "
                "prompt.template to ChatML or Raw, or repair the model's chat template"
            ) from error


def chosen_template(wanted: Template, own: str | None, tokens: SpecialTokens) -> ChatTemplate:
    """Return the template of a run; `own` is the chat template of the tokenizer, if it has one."""
    if wanted == Template.MODEL and own is None:
        raise TemplateUnsuitableError(
            "prompt.template: Model, but the tokenizer has no chat template; set ChatML or Raw"
        )
    if own is not None and wanted in (Template.AUTO, Template.MODEL):
        return ChatTemplate(Template.MODEL.value, own, tokens)
    name = Template.RAW if wanted in (Template.AUTO, Template.RAW) else Template.CHATML
    return ChatTemplate(name.value, OWN[name], tokens)


class _Generation(Extension):
    """`{% generation %}` marks answers for other tools; the text inside is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> Node | list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Refuses arithmetic whose result would fill the memory before any limit could act."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Apply an operator whose result is bounded."""
        if operator == "**" and not (abs(left) <= MAX_BASE and abs(right) <= MAX_EXPONENT):
            raise SecurityError(f"power of {MAX_BASE:,} or more, or above {MAX_EXPONENT}")
        if operator == "*" and _repeated(left, right) > MAX_CHARACTERS:
            raise SecurityError("a text repeated too often")
        if operator == "%" and isinstance(left, str):
            raise SecurityError("text formatting with %")
        return super().call_binop(context, operator, left, right)


class _BoundedRange:
    """The `range` of one rendering: nested loops share one budget."""

    def __init__(self) -> None:
        self._left = MAX_NUMBERS

    def __call__(self, *bounds: int) -> range:
        numbers = range(*bounds)
        self._left -= len(numbers)
        if self._left < 0:
            raise SecurityError(f"loops over more than {MAX_NUMBERS:,} numbers")
        return numbers


def _repeated(left: Any, right: Any) -> int:
    """Return the size of a repeated sequence; 0 for plain numbers."""
    for sequence, times in ((left, right), (right, left)):
        if isinstance(sequence, str | list | tuple) and isinstance(times, int):
            return len(sequence) * times
    return 0


def _sandbox() -> _Sandbox:
    environment = _Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    for name in ("center", "format", "pprint", "xmlattr"):
        del environment.filters[name]
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    return environment


def _tojson(value: Any, **options: Any) -> str:
    known = {key: options[key] for key in ("indent", "separators", "sort_keys") if key in options}
    return json.dumps(value, ensure_ascii=False, **known)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _fault(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:120]}" if str(error) else type(error).__name__


def _fold(role: str) -> str:
    remedies: Mapping[str, str] = {
        "system": "fold it into the first user turn, or remove the system column and prompt.system",
        "tool": "remove the tool turns, or set prompt.template to ChatML",
    }
    return remedies.get(role, "set prompt.template to ChatML or Raw")
