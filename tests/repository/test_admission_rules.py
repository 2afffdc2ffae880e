"""The admission policies of the chart know every field that names something."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from pydantic import BaseModel

from corpus.reference_cases import REFERENCES, THING, manifest
from finetune_api.crds import SERVED_KINDS
from finetune_api.meta import ConfigMapRef, DnsName, SecretRef, Url
from finetune_api.names import PLURALS
from finetune_api.storage import VolumeClaim
from finetune_cli.admission_rules import (
    NOTHING_PRIVATE,
    admission_rules,
    fields,
    holds,
    right_of,
)
from finetune_operator.cluster.local_admission import admit

RULES = admission_rules()


def declared(kind: str, *types: Any) -> set[str]:
    """Return the paths of fields with one of the types, read from the models, not the schema."""
    return {path for path, found in _declared(SERVED_KINDS[kind].spec, "spec") if found in types}


def _declared(model: type[BaseModel], path: str) -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        annotation = field.annotation if not field.metadata else _whole(model, name)
        yield from _below(annotation, f"{path}.{field.alias or name}")


def _whole(model: type[BaseModel], name: str) -> Any:
    """Return the annotation as written: pydantic keeps metadata apart."""
    owner = next(c for c in model.__mro__ if name in vars(c).get("__annotations__", {}))
    return get_type_hints(owner, include_extras=True)[name]


def _below(annotation: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, annotation
    if get_origin(annotation) is list:
        yield from _below(get_args(annotation)[0], f"{path}[]")
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from _declared(annotation, path)
    elif not isinstance(annotation, type):
        for part in get_args(annotation):
            yield from _below(part, path)


def asked(kind: str, *policies: str) -> set[str]:
    """Return the paths that rules speak about, without the numbers of items."""
    rules = [rule for policy in policies for rule in RULES[policy][PLURALS[kind]]]
    paths = {rule["message"].partition(":")[0] for rule in rules}
    return {re.sub(r"\[\d+\]", "[]", path) for path in paths}


@pytest.mark.parametrize("kind", SERVED_KINDS)
def test_every_field_of_a_type_that_names_something_is_asked_about(kind: str) -> None:
    references = {f"{path}.name" for path in declared(kind, SecretRef, ConfigMapRef)}
    claims = {f"{path}.claimName" for path in declared(kind, VolumeClaim)}
    names = {p for p in declared(kind, DnsName) if not NOTHING_PRIVATE.fullmatch(p)}
    assert references
    assert claims <= names
    assert asked(kind, "secrets", "objects") == references | names


@pytest.mark.parametrize("kind", SERVED_KINDS)
def test_secrets_are_asked_about_as_secrets(kind: str) -> None:
    secrets = {f"{path}.name" for path in declared(kind, SecretRef)}
    assert asked(kind, "secrets") == secrets | {"spec.compute.imagePullSecrets[]"}
    asks = [rule["expression"] for rule in RULES["secrets"][PLURALS[kind]]]
    assert all(".resource('secrets')" in expression for expression in asks)


@pytest.mark.parametrize("kind", SERVED_KINDS)
def test_every_address_of_a_spec_is_compared(kind: str) -> None:
    variables = {path for path in fields(kind) if path.endswith("env[].name")}
    assert "spec.compute.env[].name" in variables
    assert asked(kind, "endpoints") == declared(kind, Url) | variables


@pytest.mark.parametrize("kind", SERVED_KINDS)
def test_every_name_has_a_case_and_the_cases_are_valid(kind: str) -> None:
    assert set(REFERENCES[kind]) == asked(kind, "secrets", "objects")
    for path, spec in REFERENCES[kind].items():
        assert THING in str(admit(manifest(kind, spec))["spec"]), path


def test_a_name_that_nobody_has_classified_is_an_error() -> None:
    node = fields("Dataset")["spec.compute.serviceAccountName"]
    with pytest.raises(ValueError, match="say in admission_rules"):
        right_of("spec.compute.friendName", node)


def test_a_path_becomes_a_question_to_what_is_there() -> None:
    assert holds("spec.a.b", "t(VALUE)") == "object.?spec.?a.?b.optMap(v0, t(v0)).orValue(true)"
    assert holds("spec.l[3].b", "t(VALUE)").startswith("object.?spec.?l[?3].?b.optMap")
    nested = "object.?spec.?l.orValue([]).all(v0, v0.?m.orValue([]).all(v1, t(v1)))"
    assert holds("spec.l[].m[]", "t(VALUE)") == nested
