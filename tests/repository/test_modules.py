"""Modules are small, documented, and have a name of their own."""

from __future__ import annotations

import ast
from collections import defaultdict

from repository.tree import modules, named, parsed

SHARED_NAMES = {"__init__", "__main__", "conftest", "errors"}
"""Names that Python or pytest give a meaning, and the error tree of each package."""
EMPTY_NAMES = ("utils", "util", "helpers", "common", "base", "core", "misc", "manager")
LONGEST_MODULE = 300
LONGEST_FUNCTION = 40


def test_a_module_name_stands_for_one_module() -> None:
    places = defaultdict(list)
    for path in modules():
        places[path.stem].append(named(path))
    shared = {n: p for n, p in places.items() if len(p) > 1 and n not in SHARED_NAMES}
    assert shared == {}


def test_a_module_name_says_what_the_module_owns() -> None:
    empty = tuple(f"_{name}" for name in EMPTY_NAMES)
    assert [named(p) for p in modules() if f"_{p.stem}".endswith(empty)] == []


def test_a_module_is_short() -> None:
    lines = {named(path): len(path.read_text(encoding="utf-8").splitlines()) for path in modules()}
    assert {name: count for name, count in lines.items() if count > LONGEST_MODULE} == {}


def test_a_function_is_short() -> None:
    long = [
        f"{named(path)}: {node.name} has {length} lines"
        for path in modules()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > LONGEST_FUNCTION
    ]
    assert long == []


def test_a_module_says_what_it_is_for() -> None:
    assert [named(path) for path in modules() if not ast.get_docstring(parsed(path))] == []
