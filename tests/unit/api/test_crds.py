"""The CRDs: what is served of each kind."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from finetune_api.crds import SERVED_KINDS, crds, schema_of
from finetune_api.structural_schema import RULES

YAML_BOOLEANS = {"yes", "no", "on", "off", "y", "n", "true", "false", "null"}
CONDITION_STATUS = ["True", "False", "Unknown"]
KINDS = pytest.mark.parametrize("kind", SERVED_KINDS)


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Return every node of a schema with its path."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from nodes(schema[key], f"{path}[]")


def spec_and_status(kind: str) -> dict[str, dict[str, Any]]:
    """Return the nodes below spec and status by path."""
    found = dict(nodes(schema_of(kind)))
    return {path: node for path, node in found.items() if path.startswith((".spec", ".status"))}


@KINDS
def test_a_crd_is_small_enough_for_client_side_apply(kind: str) -> None:
    """kubectl keeps a copy in an annotation; all annotations together hold 256 KiB."""
    assert len(json.dumps(crds()[kind], separators=(",", ":"))) < 128 * 1024


@KINDS
def test_every_field_is_explained_and_the_text_begins_with_its_name(kind: str) -> None:
    for path, node in spec_and_status(kind).items():
        name = path.rpartition(".")[2]
        if not name.endswith("[]") and name not in ("spec", "status"):
            assert re.match(rf"{name}\b", node.get("description", "")), path


@KINDS
def test_columns_and_selectable_fields_exist(kind: str) -> None:
    version = crds()[kind]["spec"]["versions"][0]
    paths = [column["jsonPath"] for column in version["additionalPrinterColumns"]]
    paths += [field["jsonPath"] for field in version["selectableFields"]]
    known = dict(nodes(schema_of(kind)))
    for path in paths:
        plain = re.sub(r"\[\?.*?\]", "[]", path)
        assert plain in known or plain == ".metadata.creationTimestamp", path


@KINDS
def test_every_block_of_a_spec_has_one_rule_of_change(kind: str) -> None:
    served = SERVED_KINDS[kind]
    blocks = [block for group in served.result for block in group]
    blocks += [*served.place, *served.control]
    assert sorted(blocks) == sorted(schema_of(kind)["properties"]["spec"]["properties"])


@KINDS
def test_words_are_no_booleans_in_any_yaml_and_begin_with_a_capital(kind: str) -> None:
    for path, node in spec_and_status(kind).items():
        words = node.get("enum", [])
        of_others = path == ".spec.roles[]" or path.startswith(".spec.podOverrides.")
        if words == CONDITION_STATUS or not path.startswith(".spec") or of_others:
            continue
        assert not {word.lower() for word in words} & YAML_BOOLEANS, path
        assert all(word[0].isupper() for word in words), path


@KINDS
def test_the_status_has_no_defaults(kind: str) -> None:
    assert not [
        p for p, node in spec_and_status(kind).items() if ".status" in p and "default" in node
    ]


@KINDS
def test_no_rule_stands_on_a_block_with_a_default(kind: str) -> None:
    assert not [p for p, node in nodes(schema_of(kind)) if RULES in node and "default" in node]


@KINDS
def test_transition_rules_stand_on_the_whole_object(kind: str) -> None:
    for path, node in nodes(schema_of(kind)):
        for rule in node.get(RULES, ()):
            assert path == "" or "oldSelf" not in rule["rule"], path


@KINDS
def test_keyed_lists_have_their_keys(kind: str) -> None:
    for path, node in spec_and_status(kind).items():
        for key in node.get("x-kubernetes-list-map-keys", ()):
            assert key in node["items"].get("required", ()), path
