"""Who writes an object must have the right to what it names; a real server asks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from api_users import OPERATOR, Users, path_of
from harness.bare_api import BareApi
from harness.processes import wait_until

from corpus.reference_cases import PLAIN, REFERENCES, THING, manifest
from finetune_api.names import EXPERIMENT, PLURALS

CASES = [
    pytest.param(kind, path, id=f"{kind}: {path}") for kind, paths in REFERENCES.items()
    for path in paths
]  # fmt: skip
pytestmark = pytest.mark.cluster


@pytest.fixture
def stored(users: Users) -> Iterator[Any]:
    """Make objects as alice that vanish at the end."""
    made: list[dict[str, Any]] = []

    def make(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
        found = manifest(kind, spec, name="stored")
        answer = users.create("alice", found)
        assert answer.status_code == 201, answer.text
        made.append(found)
        return found

    yield make
    for found in made:
        users.ask("admin", "DELETE", path_of(found))


def refused(answer: httpx.Response, path: str) -> bool:
    """Tell whether the answer is a refusal that names the field."""
    item = path.replace("[]", "[0]")
    return (
        answer.status_code == 403 and f"{item}: you lack the right to" in answer.json()["message"]
    )


@pytest.mark.parametrize(("kind", "path"), CASES)
def test_a_name_is_refused_to_who_may_not_have_the_thing(
    users: Users, stored: Any, kind: str, path: str
) -> None:
    asked = manifest(kind, REFERENCES[kind][path])
    answer = users.try_out("bob", asked)
    assert refused(answer, path), answer.text
    assert users.try_out("alice", asked).status_code == 201
    plain = stored(kind, {})
    change = {"spec": {**REFERENCES[kind][path], "rerun": "again"}}
    merge = json.loads(json.dumps(change, default=lambda _: None))  # ABSENT removes, as null does
    answer = users.patch("bob", plain, merge)
    assert refused(answer, path), answer.text


@pytest.mark.parametrize(("kind", "path"), CASES)
def test_what_another_user_wrote_cannot_be_bent(
    users: Users, stored: Any, kind: str, path: str
) -> None:
    """Else bob could lead alice's credentials to a server of his."""
    found = stored(kind, REFERENCES[kind][path])
    answer = users.patch("bob", found, {"spec": {"hub": {"endpoint": "https://bob.example"}}})
    assert refused(answer, path), answer.text
    labels = users.patch("bob", found, {"metadata": {"labels": {"team": "b"}}})
    assert labels.status_code == 200, labels.text
    same = users.patch("bob", found, {"metadata": {"finalizers": ["bob.example/x"]}})
    assert same.status_code == 200, same.text
    assert users.patch("admin", found, {"metadata": {"finalizers": None}}).status_code == 200


@pytest.mark.parametrize("kind", PLURALS)
def test_a_status_is_written_without_any_of_these_rights(
    users: Users, stored: Any, kind: str
) -> None:
    path = "spec.storage.s3.secretRef.name"
    found = stored(kind, REFERENCES[kind][path])
    patch = [{"op": "add", "path": "/status", "value": {"observedGeneration": 1}}]
    where = path_of(found) + "/status"
    answer = users.ask(OPERATOR, "PATCH", where, patch, "json-patch+json")
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == {"observedGeneration": 1}


def test_one_named_right_is_enough_and_no_other_name_follows_from_it(users: Users) -> None:
    spec = {"storage": {"s3": {"bucket": "lake", "secretRef": {"name": "open"}}}}
    assert users.try_out("bob", manifest(EXPERIMENT, spec)).status_code == 201
    spec["hub"] = {"secretRef": {"name": THING}}
    answer = users.try_out("bob", manifest(EXPERIMENT, spec))
    assert refused(answer, "spec.hub.secretRef.name"), answer.text
    assert "spec.storage" not in answer.json()["message"]


def test_the_fullest_object_is_judged_within_the_servers_cost_limit(users: Users) -> None:
    """26 Secrets: a question to the authorizer costs 350,000 of 10,000,000."""
    bucket = {"s3": {"bucket": "lake", "secretRef": {"name": "open"}}}
    spec = {
        "sources": [bucket] * 16,
        "hub": {"secretRef": {"name": "open"}},
        "storage": bucket,
        "compute": {"imagePullSecrets": ["open"] * 7 + [THING]},
    }
    answer = users.try_out("alice", manifest("Dataset", spec))
    assert answer.status_code == 201, answer.text
    answer = users.try_out("bob", manifest("Dataset", spec))
    assert refused(answer, "spec.compute.imagePullSecrets[7]"), answer.text


@pytest.mark.parametrize("kind", PLURALS)
@pytest.mark.parametrize(
    ("field", "spec"),
    [
        ("spec.compute.image", {"compute": {"image": "bob.example/trainer"}}),
        ("spec.compute.env", {"compute": {"env": [{"name": "PYTHONPATH", "value": "/mnt"}]}}),
        ("spec.podOverrides", {"podOverrides": {"metadata": {"labels": {"a": "b"}}}}),
    ],
)
def test_only_who_may_create_pods_changes_what_a_pod_runs(
    users: Users, kind: str, field: str, spec: dict[str, Any]
) -> None:
    """Else bob's code could read the credentials of a Dataset that he may train on."""
    answer = users.try_out("bob", manifest(kind, spec))
    assert answer.status_code == 403, answer.text
    assert f"denied request: {field}: changes what a pod runs" in answer.json()["message"]
    assert users.try_out("alice", manifest(kind, spec)).status_code == 201


def test_the_operator_may_create_what_follows_from_a_checked_object(users: Users) -> None:
    """Its role decides whether it creates anything; these policies do not."""
    asked = manifest(EXPERIMENT, REFERENCES[EXPERIMENT]["spec.hub.secretRef.name"])
    answer = users.try_out(OPERATOR, asked)
    assert "ValidatingAdmissionPolicy" not in answer.text


def test_no_name_can_point_into_another_namespace(users: Users) -> None:
    for kind, paths in REFERENCES.items():
        for path, spec in paths.items():
            foreign = json.loads(json.dumps(manifest(kind, spec)).replace(THING, f"other/{THING}"))
            answer = users.try_out("admin", foreign)
            assert answer.status_code == 422, (path, answer.text)


def test_the_expressions_fit_the_types_of_our_kinds(api: BareApi) -> None:
    def warnings() -> list[Any] | None:
        found = json.loads(api.kubectl("get", "validatingadmissionpolicies", "-o", "json"))["items"]
        assert found
        if any("typeChecking" not in item.get("status", {}) for item in found):
            return None
        return [item["status"]["typeChecking"] for item in found if item["status"]["typeChecking"]]

    wait_until("the policies are type-checked", lambda: warnings() is not None)
    assert warnings() == []


@pytest.mark.parametrize("kind", PLAIN)
def test_an_object_that_names_only_what_is_open_is_accepted(users: Users, kind: str) -> None:
    assert users.try_out("bob", manifest(kind, {})).status_code == 201
