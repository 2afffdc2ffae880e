"""The operator with exactly the rights of its table, against the real API server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.kubectl import apply, fetch, kubectl, wait_until
from harness.locations import KUBECONFIG
from harness.namespaces import namespace
from harness.volumes import claim
from installation import NAMESPACE, others_may_own_children

from finetune_operator.cluster.api_transport import RIGHTS, ApiTransport
from finetune_operator.cluster.kubernetes_cluster import KubernetesCluster
from finetune_operator.cluster.resources import DATASETS
from finetune_operator.errors import ConflictError
from finetune_operator.observed import Key
from operator_process import operator_process, until

pytestmark = pytest.mark.cluster
CRDS = Path(__file__).parents[3] / "crds"
TRAINER = "localhost/finetune-trainer:dev"


@pytest.fixture(scope="module", autouse=True)
def _kinds_are_installed() -> None:
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRDS))


@pytest.fixture(scope="module", autouse=True)
def _no_other_operator_acts(_kinds_are_installed: None) -> Iterator[None]:
    """Stop the one that other scenarios installed: two would write one status."""
    found = fetch("deployments", namespace=NAMESPACE)["items"]
    for replicas in (0, 1):
        for deployment in found:
            kubectl(
                "scale", "deployment", deployment["metadata"]["name"], f"--replicas={replicas}",
                namespace=NAMESPACE,
            )  # fmt: skip
        if replicas == 0:
            wait_until("no operator runs", lambda: not fetch("pods", namespace=NAMESPACE)["items"])
            yield
    for deployment in found:
        name = deployment["metadata"]["name"]
        kubectl("rollout", "status", f"deployment/{name}", namespace=NAMESPACE, timeout=120)


@pytest.fixture(scope="module", autouse=True)
def _another_account_owns_children(_no_other_operator_acts: None) -> Iterator[None]:
    with others_may_own_children():
        yield


@pytest.fixture
def place() -> Iterator[str]:
    with namespace("rights") as name:
        yield name


def grant(place: str) -> None:
    """Create a ServiceAccount that may do what the table says, and nothing else."""
    rules = [
        {"apiGroups": [right.group], "resources": right.resources, "verbs": right.verbs}
        for right in RIGHTS
    ]
    named = {"name": "operator", "namespace": place}
    subject = {"kind": "ServiceAccount", **named}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "operator"}
    group = "rbac.authorization.k8s.io/v1"
    apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": named})
    apply({"apiVersion": group, "kind": "Role", "metadata": named, "rules": rules})
    binding = {"apiVersion": group, "kind": "RoleBinding", "metadata": named}
    apply({**binding, "roleRef": role, "subjects": [subject]})


def kubeconfig(place: str, folder: Path) -> Path:
    """Write a kubeconfig of that ServiceAccount."""
    config = json.loads(kubectl("config", "view", "--raw", "--minify", "-o", "json"))
    token = kubectl("create", "token", "operator", namespace=place).strip()
    config["users"] = [{"name": "operator", "user": {"token": token}}]
    config["contexts"][0]["context"]["user"] = "operator"
    path = folder / "operator.kubeconfig"
    path.write_text(json.dumps(config))
    return path


def dataset(place: str) -> dict:
    lines = "\n".join(json.dumps({"text": f"sentence number {n} of a test"}) for n in range(40))
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "Dataset",
        "metadata": {"name": "faq", "namespace": place},
        "spec": {
            "sources": [{"inline": {"data": lines}, "format": "JSONL"}],
            "split": {"validation": 0.1},
            "storage": {"volumeClaim": {"claimName": "finetune-artifacts"}},
        },
    }


def condition(place: str, kind: str) -> dict:
    status = fetch("dataset", "faq", namespace=place).get("status") or {}
    return next((c for c in status.get("conditions", ()) if c["type"] == kind), {})


async def test_a_part_of_the_status_that_empties_is_stored_as_planned(place: str, monkeypatch):
    """Server-side apply would make it null, which the schema refuses."""
    monkeypatch.setenv("KUBECONFIG", str(KUBECONFIG))
    apply(dataset(place))
    transport = await ApiTransport.connect()
    cluster = KubernetesCluster(transport)
    key = Key("Dataset", place, "faq")
    for status in ({"children": {"job": "faq-d1"}}, {"children": {}}, {}):
        live = await cluster.read(DATASETS, place, "faq") or {}
        version = live["metadata"]["resourceVersion"]
        await cluster.write_status(key, status, resource_version=version)
        live = await cluster.read(DATASETS, place, "faq") or {}
        assert live.get("status", {}) == status
    with pytest.raises(ConflictError):
        await cluster.write_status(key, {"revision": 1}, resource_version="1")
    await cluster.close()


async def test_a_dataset_becomes_ready_and_every_right_is_enough_and_needed(
    place: str, tmp_path: Path, monkeypatch
):
    grant(place)
    claim(place)
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(place, tmp_path)))
    settings = {
        "namespaces": json.dumps([place]),
        "lease_namespace": place,
        "trainer_image": TRAINER,
        "progress_interval_seconds": "1",
    }
    async with operator_process(tmp_path, **settings) as operator:
        await operator.working()
        start = operator.resident_bytes()
        await asyncio.to_thread(apply, dataset(place))
        await until(lambda: condition(place, "Ready").get("status") == "True", seconds=180)
        await asyncio.sleep(2)
        version = fetch("dataset", "faq", namespace=place)["metadata"]["resourceVersion"]
        await asyncio.sleep(15)
        found = fetch("dataset", "faq", namespace=place)["metadata"]
        assert found["resourceVersion"] == version, "there are no writes at rest"
        assert not found.keys() & {"finalizers", "annotations"}
        assert operator.complaints() == []
        assert [line for line in operator.log() if "403" in str(line)] == []
        print(f"resident at start {start >> 20} MiB, at rest {operator.resident_bytes() >> 20} MiB")
        assert await operator.stop() == 0
    lease = fetch("lease", "finetune-operator", namespace=place)
    assert lease["spec"].get("holderIdentity", "") == ""


async def test_a_quota_that_refuses_pods_is_quoted_and_lifting_it_is_enough(
    place: str, tmp_path: Path, monkeypatch
):
    """The retry is the Job controller's: its back-off decides when the pod comes."""
    grant(place)
    claim(place)
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(place, tmp_path)))
    named = {"name": "none", "namespace": place}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": named}
    apply({**quota, "spec": {"hard": {"pods": "0"}}})
    settings = {"namespaces": json.dumps([place]), "lease_namespace": place}
    async with operator_process(tmp_path, trainer_image=TRAINER, **settings) as operator:
        await operator.working()
        await asyncio.to_thread(apply, dataset(place))
        await until(lambda: "exceeded quota" in condition(place, "Ready").get("message", ""), 60)
        assert condition(place, "PodsReady")["reason"] == "QuotaExceeded"
        kubectl("delete", "resourcequota", "none", namespace=place)
        await until(lambda: condition(place, "Ready").get("status") == "True", seconds=180)
        assert operator.complaints() == []
