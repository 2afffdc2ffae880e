"""Runs template text of strangers: immutable, without files or attributes, bounded in every way."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import meta
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Name, Node, Output
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_CHARACTERS, MAX_NUMBERS, MAX_SECONDS = 16 << 20, 200_000, 10.0
"""Bounds of one rendering: characters of its output, numbers of its ranges, processor time."""
MAX_BASE, MAX_EXPONENT = 1_000_000, 8
MARK_BEGINS, MARK_ENDS = "generation_begins", "generation_ends"
"""Variables that a `{% generation %}` block prints around its text."""

FAULTS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What running a template can raise; whatever else comes is not the template's fault."""


@lru_cache(maxsize=64)
def compiled(source: str) -> jinja2.Template:
    """Return the template of a text; raise jinja2.TemplateError where it cannot be read."""
    return _sandbox().from_string(source)


def variables_read(source: str) -> set[str]:
    """Return the names that a template takes from its caller."""
    return meta.find_undeclared_variables(_sandbox().parse(source))


def rendered(source: str, variables: Mapping[str, Any]) -> str:
    """Return the text of a template; raise one of `FAULTS` where it fails or has no end."""
    parts, size = [], 0
    template = compiled(source)
    with _time_limit():
        for part in template.generate(variables, range=_BoundedRange()):
            parts.append(part)
            size += len(part)
            if size > MAX_CHARACTERS:
                raise SecurityError(f"more than {MAX_CHARACTERS:,} characters")
    return "".join(parts)


def literal(value: Any) -> str:
    """Return a JSON value as template text; strings come back exactly, whatever they hold."""
    if isinstance(value, dict):
        inside = ", ".join(f"{literal(str(name))}: {literal(one)}" for name, one in value.items())
        return f"{{{inside}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


@contextmanager
def _time_limit() -> Iterator[None]:
    """Interrupt what takes too much processor time; signals reach the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGVTALRM, _late)
    signal.setitimer(signal.ITIMER_VIRTUAL, MAX_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _late(_number: int, _frame: Any) -> None:
    raise SecurityError(f"more than {MAX_SECONDS:g} seconds")


class _Generation(Extension):
    """`{% generation %}` marks answers; the text inside is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> Node | list[Node]:
        line = next(parser.stream).lineno
        inside = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        begins, ends = (
            Output([Name(name, "load", lineno=line)], lineno=line)
            for name in (MARK_BEGINS, MARK_ENDS)
        )
        return [begins, *inside, ends]


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
