"""The chart with scope Namespaced: enough rights to work, none beyond; roles for users."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from harness import kubectl as kube
from harness.locations import BIN, KUBECONFIG
from harness.namespaces import namespace
from installation import CHART

RELEASE = "scoped"
ACCOUNT = f"{RELEASE}-finetune-operator"
SETTINGS = (
    "scope=Namespaced",
    "crds.install=false",
    "rbac.aggregate=false",
    "image.repository=localhost/finetune-operator",
    "image.tag=dev",
    "trainer.image.repository=localhost/finetune-trainer",
    "trainer.image.tag=dev",
)


def may(verb: str, resource: str, place: str, *identity: str) -> bool:
    """Ask the API server whether an identity has a right in a namespace."""
    kind, _, part = resource.partition("/")
    asked = [verb, kind, *([f"--subresource={part}"] if part else []), *identity]
    try:
        answer = kube.kubectl("auth", "can-i", *asked, namespace=place)
    except kube.KubectlError:
        return False
    return answer.strip() == "yes"


@pytest.fixture(scope="module")
def scoped(operator: None) -> Iterator[str]:
    """A release that watches only its own namespace; it is ready."""
    with namespace("scoped") as place:
        helm = [BIN / "helm", "--kubeconfig", KUBECONFIG, "--namespace", place]
        given = [part for setting in SETTINGS for part in ("--set", setting)]
        install = [*helm, "install", RELEASE, CHART, *given, "--wait", "--timeout", "120s"]
        subprocess.run(install, check=True, stdout=subprocess.DEVNULL)
        yield place
        subprocess.run([*helm, "uninstall", RELEASE], check=True, stdout=subprocess.DEVNULL)


def test_the_operator_is_ready_under_pod_security_restricted(scoped: str) -> None:
    (pod,) = kube.fetch("pods", namespace=scoped)["items"]
    (container,) = pod["status"]["containerStatuses"]
    assert container["ready"]
    assert container["restartCount"] == 0


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        ("watch", "datasets.finetune.dev"),
        ("patch", "finetuneexperiments.finetune.dev/status"),
        ("create", "jobs.batch"),
        ("create", "leases.coordination.k8s.io"),
    ],
)
def test_its_rights_end_at_the_namespace(scoped: str, verb: str, resource: str) -> None:
    account = f"--as=system:serviceaccount:{scoped}:{ACCOUNT}"
    assert may(verb, resource, scoped, account)
    assert not may(verb, resource, "default", account)


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        ("get", "secrets"),
        ("get", "persistentvolumeclaims"),
        ("create", "pods/exec"),
        ("patch", "finetuneexperiments.finetune.dev"),
        ("delete", "datasets.finetune.dev"),
    ],
)
def test_it_may_not_read_secrets_or_change_what_users_own(
    scoped: str, verb: str, resource: str
) -> None:
    account = f"--as=system:serviceaccount:{scoped}:{ACCOUNT}"
    assert not may(verb, resource, scoped, account)


@pytest.mark.parametrize(
    ("role", "verb", "resource", "allowed"),
    [
        ("view", "list", "datasets.finetune.dev", True),
        ("view", "create", "datasets.finetune.dev", False),
        ("edit", "create", "finetuneexperiments.finetune.dev", True),
        ("edit", "patch", "finetuneexperiments.finetune.dev/status", False),
        ("admin", "delete", "modelexports.finetune.dev", True),
    ],
)
def test_roles_of_the_cluster_include_our_kinds(
    scoped: str, role: str, verb: str, resource: str, allowed: bool
) -> None:
    user = f"{role}-of-{scoped}"
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": user},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [
            {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user},
        ],
    }
    kube.apply(binding, namespace=scoped)
    assert may(verb, resource, scoped, f"--as={user}") is allowed
