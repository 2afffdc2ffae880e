"""What users and the operator may do, as the API server answers it, in both install modes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from api_users import OPERATOR, SYSTEM, TEAM, Users, path_of, rendered_chart
from harness.bare_api import BareApi
from harness.processes import wait_until
from played_operator import Play, played_operator, until_so

from corpus.reference_cases import manifest
from finetune_api.names import DATASET, PLURALS
from finetune_operator.cluster.api_transport import RIGHTS

REVIEW = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
NARROW = f"system:serviceaccount:{SYSTEM}:narrow-finetune-operator"
Granted = set[tuple[str, str, str]]


def granted(users: Users, user: str, namespace: str) -> Granted:
    """Return what a user may do in a namespace beyond what every ServiceAccount may."""
    return _rules(users, user, namespace) - _rules(
        users, f"system:serviceaccount:{SYSTEM}:nobody", namespace
    )


def _rules(users: Users, user: str, namespace: str) -> Granted:
    body = {
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }  # fmt: skip
    status = users.ask(user, "POST", REVIEW, body).json()["status"]
    assert not status["incomplete"], status
    return {
        (group, resource, verb)
        for rule in status["resourceRules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def wanted(scope: str) -> Granted:
    return {
        (right.group, resource, verb)
        for right in RIGHTS
        if right.scope == scope and not right.setting
        for resource in right.resources
        for verb in right.verbs
    }


@pytest.fixture(scope="module")
def narrow(api: BareApi, users: Users) -> None:
    """A second release that watches the team's namespace only."""
    chosen = ("--set", "scope=Namespaced,watchNamespaces={" + TEAM + "}")
    shown = ("-s", "templates/rbac.yaml", "-s", "templates/serviceaccount.yaml")
    text = rendered_chart(*chosen, *shown, release="narrow")
    api.kubectl("apply", "--server-side", "-f", "-", text=text)
    wait_until("the roles act", lambda: granted(users, NARROW, TEAM))


def test_the_operator_may_do_in_every_namespace_what_it_calls_and_nothing_else(
    users: Users,
) -> None:
    for namespace in (TEAM, "default", "kube-system"):
        assert granted(users, OPERATOR, namespace) == wanted("watched")
    assert granted(users, OPERATOR, SYSTEM) == wanted("watched") | wanted("own")


@pytest.mark.usefixtures("narrow")
def test_an_operator_of_named_namespaces_may_do_nothing_elsewhere(users: Users) -> None:
    assert granted(users, NARROW, TEAM) == wanted("watched")
    assert granted(users, NARROW, SYSTEM) == wanted("own")
    for namespace in ("default", "kube-system"):
        assert granted(users, NARROW, namespace) == set()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"/api/v1/namespaces/{TEAM}/secrets"),
        ("GET", f"/api/v1/namespaces/{TEAM}/secrets/open"),
        ("POST", f"/api/v1/namespaces/{TEAM}/pods"),
        ("POST", f"/api/v1/namespaces/{TEAM}/pods/x/exec"),
        ("GET", f"/api/v1/namespaces/{TEAM}/pods/x/log"),
        ("DELETE", f"/api/v1/namespaces/{TEAM}/configmaps/x"),
        ("GET", f"/api/v1/namespaces/{TEAM}/persistentvolumeclaims/x"),
        ("POST", f"/api/v1/namespaces/{TEAM}/serviceaccounts/default/token"),
        ("GET", "/api/v1/nodes"),
        ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles"),
        ("DELETE", f"/apis/finetune.dev/v1alpha1/namespaces/{TEAM}/datasets/x"),
        ("PUT", f"/apis/finetune.dev/v1alpha1/namespaces/{TEAM}/datasets/x"),
    ],
)
@pytest.mark.usefixtures("narrow")
def test_what_it_must_never_do_is_refused(users: Users, method: str, path: str) -> None:
    for user in (OPERATOR, NARROW):
        answer = users.ask(user, method, path, {} if method in ("POST", "PUT") else None)
        assert answer.status_code == 403, answer.text


@pytest.mark.parametrize("kind", PLURALS)
def test_editors_write_specs_and_viewers_read_and_nobody_writes_a_status(
    users: Users, kind: str
) -> None:
    found = manifest(kind, {}, name="roles")
    assert users.create("vera", found).status_code == 403
    assert users.create("alice", found).status_code == 201
    rerun = {"spec": {"rerun": "again"}}
    status = {"status": {"observedGeneration": 9}}
    for user, may_write in (("alice", True), ("vera", False)):
        assert users.ask(user, "GET", path_of(found)).status_code == 200
        assert (users.patch(user, found, rerun).status_code == 200) is may_write
        for method in ("PATCH", "PUT"):
            media = "merge-patch+json" if method == "PATCH" else "json"
            body = status if method == "PATCH" else {**found, **status}
            answer = users.ask(user, method, path_of(found) + "/status", body, media)
            assert answer.status_code == 403, answer.text
    # A status beside the spec is not taken: the subresource alone writes it.
    assert users.patch("alice", found, status).json().get("status") is None
    assert users.ask("vera", "DELETE", path_of(found)).status_code == 403
    assert users.ask("alice", "DELETE", path_of(found)).status_code == 200


@pytest.fixture
def _alone(api: BareApi) -> Iterator[None]:
    """Lift what the other release says of this namespace: it takes only itself for the operator."""
    binding = ("validatingadmissionpolicybinding", "ft-finetune-operator-owners")
    stored = json.loads(api.kubectl("get", *binding, "-o", "json"))
    api.kubectl("delete", *binding)
    yield
    kept = {**stored, "metadata": {"name": binding[1]}}
    api.kubectl("apply", "--server-side", "-f", "-", text=json.dumps(kept))


@pytest.mark.usefixtures("narrow", "_alone")
async def test_an_operator_of_named_namespaces_works_with_their_roles(
    api: BareApi, users: Users, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = Play(users)
    found = manifest(DATASET, {"storage": {"volumeClaim": {"claimName": "open"}}}, name="narrow")
    play.made(found, user="alice")
    scope = {"release": "narrow", "namespaces": f'["{TEAM}"]'}
    async with played_operator(api, tmp_path, monkeypatch, **scope) as operator:
        await until_so(lambda: play.found("batch/v1", "Job", "narrow-d1"))
        assert [line for line in operator.log() if "403" in str(line)] == []
        assert operator.complaints() == []
    play.removed(found)


def test_a_claim_to_be_somebody_else_needs_a_right_too(users: Users) -> None:
    for user in ("alice", "bob"):
        asked: dict[str, Any] = manifest(DATASET, {"compute": {"serviceAccountName": "x"}})
        expected = 201 if user == "alice" else 403
        assert users.try_out(user, asked).status_code == expected
