"""What local admission says to a case, and what the rules of a kind can say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from corpus.admission_case import Case
from finetune_api.crds import schema_of
from finetune_api.structural_schema import RULES
from finetune_operator.cluster.local_admission import AdmissionError, admit, admit_status


def local_problems(case: Case) -> list[str]:
    """Put a case to local admission; return the sentences of its refusal."""
    try:
        local_object(case)
    except AdmissionError as error:
        return list(error.problems)
    return []


def local_object(case: Case) -> dict[str, Any]:
    """Put a case to local admission; return what is stored, or raise AdmissionError."""
    old = case.stored_manifest()
    if old is not None:
        old = admit_status(case.stored_status or {}, admit(old))
    if case.status is not None and old is not None:
        return admit_status(case.status, old)
    return admit(case.manifest(), old)


def rule_messages(kind: str) -> set[str]:
    """Return the messages of all CEL rules of a kind."""
    return {rule["message"] for rule in _rules(schema_of(kind))}


def _rules(schema: dict[str, Any]) -> Iterator[dict[str, str]]:
    yield from schema.get(RULES, ())
    children = [*schema.get("properties", {}).values()]
    children += [schema[key] for key in ("items", "additionalProperties") if key in schema]
    for child in children:
        yield from _rules(child)
