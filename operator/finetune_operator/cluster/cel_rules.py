"""The CEL rules of a schema, evaluated as the API server evaluates them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import cel

from finetune_api.structural_schema import RULES, Schema


def broken_rules(value: Any, old: Any, schema: Schema, *, tolerant: bool = False) -> list[str]:
    """Return `path: message` of every rule that does not hold.

    Transition rules, those that read oldSelf, are asked only where `old` has the same node.
    `tolerant`: the object has other faults already, a rule that fails on them says nothing new.
    """
    return list(_broken(_typed(value, schema), _typed(old, schema), schema, "", tolerant))


def _broken(value: Any, old: Any, schema: Schema, path: str, tolerant: bool) -> Iterator[str]:
    if value is None:
        return
    for rule in schema.get(RULES, ()):
        if "oldSelf" in rule["rule"] and old is None:
            continue
        failure = _failure(rule, value, old, schema)
        if failure is not None and not (tolerant and failure):
            yield _located(path + rule.get("fieldPath", ""), rule["message"] + failure)
    for key, child, node in _children(value, schema):
        before = old.get(key) if isinstance(old, dict) and isinstance(key, str) else None
        child_path = f"{path}[{key}]" if isinstance(key, int) else f"{path}.{key}"
        yield from _broken(child, before, node, child_path, tolerant)


def _failure(rule: dict[str, str], value: Any, old: Any, schema: Schema) -> str | None:
    """Return None when the rule holds, else the evaluator's complaint if it has one."""
    names = {"self": value}
    if "oldSelf" in rule["rule"]:
        names = {"self": _unordered(value, schema), "oldSelf": _unordered(old, schema)}
    try:
        holds = _program(rule["rule"]).execute(names)
    except (ValueError, TypeError, RuntimeError, KeyError) as error:
        return f" ({error})"
    return None if holds is True else ""


def _located(path: str, message: str) -> str:
    path = path.removeprefix(".")
    return f"{path}: {message}" if path else message


@cache
def _program(text: str) -> cel.Program:
    return cel.compile(text)


def _children(value: Any, schema: Schema) -> Iterator[tuple[str | int, Any, Schema]]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield index, item, schema.get("items", {})
    if isinstance(value, dict):
        properties, others = schema.get("properties", {}), schema.get("additionalProperties", {})
        for name, child in value.items():
            yield name, child, properties.get(name, others)


def _typed(value: Any, schema: Schema) -> Any:
    """Give values the types that CEL sees: what may have a fraction is a double."""
    if isinstance(value, dict):
        return {name: _typed(child, node) for name, child, node in _children(value, schema)}
    if isinstance(value, list):
        return [_typed(item, schema.get("items", {})) for item in value]
    if schema.get("type") == "number" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def _unordered(value: Any, schema: Schema) -> Any:
    """Sort keyed lists: they are equal in any order."""
    if isinstance(value, dict):
        return {name: _unordered(child, node) for name, child, node in _children(value, schema)}
    if isinstance(value, list):
        items = [_unordered(item, schema.get("items", {})) for item in value]
        keys = schema.get("x-kubernetes-list-map-keys")
        return (
            sorted(items, key=lambda item: [str(item.get(key)) for key in keys]) if keys else items
        )
    return value
