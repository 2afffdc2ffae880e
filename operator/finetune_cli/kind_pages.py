"""Reference pages of the kinds: every field of the CRDs, and every rule over them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from finetune_api.crds import SERVED_KINDS, crds, schema_of
from finetune_api.names import API_VERSION, PLURALS, SHORT_NAMES
from finetune_api.structural_schema import RULES, Schema

_LONGEST_PATTERN = 60


def kind_page(kind: str) -> str:
    """Return the page of one kind as Markdown."""
    schema = schema_of(kind)
    names = f"`{PLURALS[kind]}`, short `{SHORT_NAMES[kind]}`"
    parts = [
        f"# {kind}",
        schema["description"],
        f"`apiVersion: {API_VERSION}`, `kind: {kind}`; namespaced; {names}; "
        "`kubectl get finetune` lists all kinds.",
        "## Spec",
        table(("Field", "Type", "Default", "Allowed", "Meaning"), _spec_rows(schema)),
        "## What is refused",
        "Beside unknown fields, wrong types and values outside the table above. `finetune "
        "validate` and `finetune run` apply the same rules as the API server.",
        table(("Where", "Message"), sorted(set(_rule_rows(schema)))),
        "## What may change",
        _changes(kind),
        "## Status",
        table(("Field", "Type", "Meaning"), _status_rows(schema)),
        "## Columns",
        table(("Column", "Shows", "Only with"), _column_rows(kind)),
    ]
    return "\n\n".join(parts) + "\n"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def _spec_rows(schema: Schema) -> Iterator[tuple[str, ...]]:
    for path, node, required in _fields(schema["properties"]["spec"], "spec"):
        yield (
            f"`{path}`",
            _type(node),
            "required" if required else _default(node),
            _allowed(node),
            _meaning(node),
        )


def _status_rows(schema: Schema) -> Iterator[tuple[str, ...]]:
    for path, node, _ in _fields(schema["properties"]["status"], "status"):
        yield f"`{path}`", _type(node), _meaning(node)


def _fields(schema: Schema, path: str) -> Iterator[tuple[str, Schema, bool]]:
    for name, child in schema.get("properties", {}).items():
        child_path = f"{path}.{name}"
        yield child_path, child, name in schema.get("required", ())
        yield from _fields(child, child_path)
        if "items" in child:
            yield from _fields(child["items"], f"{child_path}[]")


def _type(node: Schema) -> str:
    if "items" in node:
        return f"list of {_type(node['items'])}"
    if "additionalProperties" in node:
        return f"map of {_type(node['additionalProperties'])}"
    if node.get("format") == "date-time":
        return "time"
    return {"object": "block"}.get(node["type"], str(node["type"]))


def _default(node: Schema) -> str:
    if "default" not in node or node["default"] == {}:
        return ""
    return f"`{json.dumps(node['default'], ensure_ascii=False)}`"


def _allowed(node: Schema) -> str:
    parts = []
    if "enum" in node:
        parts.append(", ".join(f"`{word}`" for word in node["enum"]))
    parts += _limits(node)
    if len(node.get("pattern", "")) in range(1, _LONGEST_PATTERN):
        parts.append(f"`{node['pattern']}`")
    for key in ("items", "additionalProperties"):
        inner = _allowed(node[key]) if key in node else ""
        parts += [f"each: {inner}"] if inner else []
    return "; ".join(parts)


def _limits(node: Schema) -> Iterator[str]:
    low = ("> " if node.get("exclusiveMinimum") else "≥ ") + str(node.get("minimum"))
    high = ("< " if node.get("exclusiveMaximum") else "≤ ") + str(node.get("maximum"))
    bounds = [text for text in (low, high) if "None" not in text]
    if bounds:
        yield ", ".join(bounds)
    for noun, unit in (("Length", "characters"), ("Items", "items"), ("Properties", "entries")):
        least, most = node.get(f"min{noun}", 0), node.get(f"max{noun}")
        if most is not None:
            yield f"{least}-{most} {unit}" if least else f"≤ {most} {unit}"


def _meaning(node: Schema) -> str:
    return str(node.get("description", "")).replace("\n", " ")


def _rule_rows(schema: Schema, path: str = "") -> Iterator[tuple[str, str]]:
    for rule in schema.get(RULES, ()):
        where = (path + rule.get("fieldPath", "")).removeprefix(".")
        yield f"`{where}`", rule["message"]
    for name, child in schema.get("properties", {}).items():
        yield from _rule_rows(child, f"{path}.{name}")
    if "items" in schema:
        yield from _rule_rows(schema["items"], f"{path}[]")


def _changes(kind: str) -> str:
    served = SERVED_KINDS[kind]

    def listed(blocks: Iterable[str]) -> str:
        return ", ".join(f"`{block}`" for block in blocks)

    fixed = listed(block for group in served.result for block in group)
    return (
        f"Before the first attempt everything. From then on {fixed} are fixed; "
        f"{listed(served.place)} may change while `runPolicy.suspend` is true before or after the "
        f"update; {listed(served.control)} may always change."
    )


def _column_rows(kind: str) -> Iterator[tuple[str, ...]]:
    version: dict[str, Any] = crds()[kind]["spec"]["versions"][0]
    for column in version["additionalPrinterColumns"]:
        wide = "`-o wide`" if column.get("priority") else ""
        yield column["name"], f"`{column['jsonPath']}`", wide
    for field in version["selectableFields"]:
        yield "", f"`{field['jsonPath']}`", "`--field-selector`"
