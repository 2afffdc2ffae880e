"""What the API server refuses, decided by the generated CRDs themselves: fields, defaults, CEL."""

from __future__ import annotations

from copy import deepcopy
from difflib import get_close_matches
from typing import Any

from finetune_api.crds import SERVED_KINDS, schema_of
from finetune_api.names import API_VERSION
from finetune_api.structural_schema import Schema
from finetune_operator.cluster.cel_rules import broken_rules
from finetune_operator.cluster.schema_findings import child_schema, schema_findings
from finetune_operator.errors import RefusedError
from finetune_operator.observed import Manifest

_METADATA: dict[str, Schema] = {
    name: {}
    for name in (
        *("name", "namespace", "labels", "annotations", "generateName", "uid", "resourceVersion"),
        *("generation", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"),
        *("finalizers", "ownerReferences", "managedFields", "selfLink"),
    )
}


class AdmissionError(RefusedError):
    """The object is refused; `problems` are sentences that begin with the field."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems), status=422)
        self.problems = tuple(problems)


def admit(manifest: Manifest, old: Manifest | None = None) -> Manifest:
    """Return what the server would store for a create, or for an update of `old`.

    As with a status subresource the status is not taken from the manifest. Raises
    `AdmissionError` with all problems of the object.
    """
    schema = _served_schema(manifest)
    problems = _unknown_fields(manifest, schema, "") + _metadata_problems(manifest)
    candidate = _as_decoded(deepcopy(manifest), schema)
    candidate.pop("status", None)
    if old is not None and "status" in old:
        candidate["status"] = deepcopy(old["status"])
    return _admitted(candidate, old, schema, problems)


def admit_status(status: Manifest, old: Manifest) -> Manifest:
    """Return `old` with this status; raises `AdmissionError` with all problems of the status."""
    schema = _served_schema(old)
    candidate = deepcopy({**old, "status": status})
    problems = _unknown_fields(candidate, schema, "")
    return _admitted(_as_decoded(candidate, schema), old, schema, problems)


def _admitted(
    candidate: Manifest, old: Manifest | None, schema: Schema, problems: list[str]
) -> Manifest:
    _set_defaults(candidate, schema)
    findings = schema_findings(candidate, schema)
    problems = [*problems, *findings]
    problems += broken_rules(candidate, old, schema, tolerant=bool(findings))
    if problems:
        raise AdmissionError(problems)
    return candidate


def _served_schema(manifest: Manifest) -> Schema:
    kind, version = manifest.get("kind"), manifest.get("apiVersion")
    if kind not in SERVED_KINDS:
        raise AdmissionError([f"kind: {kind!r} is unknown; use {', '.join(SERVED_KINDS)}"])
    if version != API_VERSION:
        raise AdmissionError([f"apiVersion: {version!r} is not served; use {API_VERSION}"])
    return schema_of(str(kind))


def _metadata_problems(manifest: Manifest) -> list[str]:
    metadata = manifest.get("metadata")
    if not isinstance(metadata, dict) or not metadata.get("name"):
        return ["metadata.name: is missing; give the object a name"]
    if not isinstance(metadata["name"], str):
        return ["metadata.name: must be text; put it into quotes"]
    return [
        f"metadata.{name}[{key}]: must be text; put it into quotes"
        for name in ("labels", "annotations")
        for key, value in (metadata.get(name) or {}).items()
        if not isinstance(value, str)
    ]


def _unknown_fields(value: Any, schema: Schema, path: str) -> list[str]:
    """Name every field below `value` that the schema does not have."""
    if isinstance(value, list) and "items" in schema:
        found = [
            _unknown_fields(item, schema["items"], f"{path}[{index}]")
            for index, item in enumerate(value)
        ]
        return [problem for problems in found for problem in problems]
    known = _METADATA if path == "metadata" else schema.get("properties")
    if not isinstance(value, dict) or known is None:
        return []
    problems = []
    for name, child in value.items():
        child_path = f"{path}.{name}".removeprefix(".")
        if name in known:
            problems += _unknown_fields(child, known[name], child_path)
        else:
            problems.append(f"{child_path}: unknown field{_suggestion(str(name), known)}")
    return problems


def _suggestion(name: str, known: Any) -> str:
    lowered = {candidate.lower(): candidate for candidate in known}
    near = get_close_matches(name.lower(), lowered, n=1)
    return f"; did you mean {lowered[near[0]]}?" if near else "; remove it"


def _as_decoded(value: Any, schema: Schema) -> Any:
    """Drop fields that are null and read numbers as the server does.

    A whole number may have a point; beyond 64 bits it is none.
    """
    if isinstance(value, list):
        return [_as_decoded(item, schema.get("items", {})) for item in value]
    if isinstance(value, dict):
        fields = {name: child_schema(schema, name) for name in value}
        return {
            name: _as_decoded(child, fields[name])
            for name, child in value.items()
            if child is not None or not fields[name]
        }
    if schema.get("type") == "integer" and isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is int and not -(2**63) <= value < 2**63:
        return float(value)
    return value


def _set_defaults(value: Any, schema: Schema) -> None:
    """Fill in defaults from outside in: the default {} of a block first, then those inside."""
    if isinstance(value, list):
        for item in value:
            _set_defaults(item, schema.get("items", {}))
    if not isinstance(value, dict):
        return
    for name, child in schema.get("properties", {}).items():
        if name not in value and "default" in child:
            value[name] = deepcopy(child["default"])
        if name in value:
            _set_defaults(value[name], child)
