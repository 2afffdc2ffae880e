"""What a schema finds wrong with an object, as sentences: field, what is wrong, what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from typing import Any

import jsonschema_rs

from finetune_api.crds import schema_of
from finetune_api.structural_schema import Schema
from finetune_operator.observed import Manifest

_LIST_KEYS = "x-kubernetes-list-map-keys"
_NOUNS = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a block of fields",
}
_COUNTED = {
    "minLength": ("minLength", "maxLength", "characters"),
    "maxLength": ("minLength", "maxLength", "characters"),
    "minItems": ("minItems", "maxItems", "items"),
    "maxItems": ("minItems", "maxItems", "items"),
    "minProperties": ("minProperties", "maxProperties", "entries"),
    "maxProperties": ("minProperties", "maxProperties", "entries"),
}
_LONGEST_QUOTE = 60


def schema_findings(manifest: Manifest, schema: Schema) -> list[str]:
    """Return one sentence per violation of types, bounds, enums, patterns and list keys."""
    errors = sorted(
        _validator(manifest["kind"]).iter_errors(manifest),
        key=lambda error: [str(part) for part in error.instance_path],
    )
    mistyped = [error.instance_path for error in errors if error.kind.name == "type"]
    said = [
        error
        for error in errors
        if error.kind.name == "type" or error.instance_path not in mistyped
    ]
    repeated = _repeated_keys(manifest, schema, "")
    return [*(_sentence(error, schema) for error in said), *repeated]


@cache
def _validator(kind: str) -> jsonschema_rs.Draft4Validator:
    """Return a validator of draft 4, whose exclusive bounds are flags as in a CRD."""
    return jsonschema_rs.Draft4Validator(schema_of(kind), validate_formats=True)


def field_path(parts: list[str | int]) -> str:
    """Return a path as the API server spells it: `spec.sources[0].format`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.removeprefix(".")


def _sentence(error: jsonschema_rs.ValidationError, schema: Schema) -> str:
    path, value, node = list(error.instance_path), error.instance, schema
    for part in path:
        node = child_schema(node, part)
    keyword = error.kind.name
    if keyword == "required":
        return (
            f"{field_path([*path, error.kind.as_dict()['property']])}: is missing; it is required"
        )
    return f"{field_path(path)}: {_violation(keyword, value, node)}"


def child_schema(schema: Schema, part: str | int) -> Schema:
    """Return the schema of a field, map entry or list item; {} where there is none."""
    child: Schema = (
        schema.get("items", {})
        if isinstance(part, int)
        else schema.get("properties", {}).get(part) or schema.get("additionalProperties", {})
    )
    return child


def _violation(keyword: str, value: Any, node: Schema) -> str:
    if keyword == "type":
        return _wrong_type(value, node["type"])
    if keyword == "enum":
        return _wrong_word(value, node["enum"])
    if keyword == "pattern":
        return f"{_quoted(value)} does not have the form {node['pattern']}"
    if keyword == "format":
        return f"{_quoted(value)} is no {node['format']}"
    if keyword in _COUNTED:
        low, high, noun = _COUNTED[keyword]
        allowed = _range(node.get(low, 0), node.get(high))
        return f"has {len(value)} {noun}; allowed: {allowed}"
    allowed = _range(
        _bound("above", node, "minimum"),
        _bound("below", node, "maximum"),
    )
    return f"{_quoted(value)} is out of range; allowed: {allowed}"


def _bound(word: str, node: Schema, name: str) -> str | None:
    if name not in node:
        return None
    exclusive = node.get("exclusive" + name.capitalize())
    return f"{word} {node[name]}" if exclusive else str(node[name])


def _range(low: object, high: object) -> str:
    if high is None:
        return str(low) if str(low).startswith("above") else f"at least {low}"
    if low is None:
        return str(high) if str(high).startswith("below") else f"at most {high}"
    return f"{low} to {high}"


def _wrong_type(value: Any, wanted: str) -> str:
    remedy = ""
    if isinstance(value, str) and wanted in ("integer", "number", "boolean"):
        remedy = "; write it without quotes" if _reads_as(value, wanted) else ""
    elif wanted == "string" and isinstance(value, bool | int | float):
        remedy = "; put it into quotes"
    return f"{_quoted(value)} is {_noun(value)}, {_NOUNS[wanted]} is needed{remedy}"


def _reads_as(text: str, wanted: str) -> bool:
    if wanted == "boolean":
        return text in ("true", "false")
    try:
        return wanted == "number" or float(text).is_integer()
    except ValueError:
        return False


def _noun(value: Any) -> str:
    names = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array"}
    return "null" if value is None else _NOUNS[names.get(type(value), "object")]


def _wrong_word(value: Any, allowed: list[Any]) -> str:
    lowered = {str(word).lower(): str(word) for word in allowed}
    near = get_close_matches(str(value).lower(), lowered, n=1)
    hint = f"did you mean {lowered[near[0]]}? " if near else ""
    return f"{_quoted(value)} is not known; {hint}allowed: {', '.join(map(str, allowed))}"


def _quoted(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}…"


def _repeated_keys(value: Any, schema: Schema, path: str) -> Iterator[str]:
    """Find items of a keyed list that have the same key."""
    if isinstance(value, dict):
        for name, child in value.items():
            child_path = f"{path}.{name}" if path else str(name)
            yield from _repeated_keys(child, child_schema(schema, name), child_path)
    if not isinstance(value, list):
        return
    seen = set()
    for index, item in enumerate(value):
        yield from _repeated_keys(item, schema.get("items", {}), f"{path}[{index}]")
        if _LIST_KEYS in schema and isinstance(item, dict):
            key = json.dumps([item.get(name) for name in schema[_LIST_KEYS]])
            if key in seen:
                names = " and ".join(schema[_LIST_KEYS])
                yield f"{path}[{index}]: an earlier item has the same {names}; rename one"
            seen.add(key)
