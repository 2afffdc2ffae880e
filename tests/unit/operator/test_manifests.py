"""Rendered children: what they must hold, and golden files of the quickstart's."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

import builders
from builders import DATASET, EXPERIMENT, EXPORT, attempt, observed, our_object, prepared
from finetune_api.names import CONFIG_KEY
from finetune_operator.manifests.identity import spec_digest
from finetune_operator.manifests.quantities import memory_quantity, quantity_bytes, readable_size
from finetune_operator.observed import Manifest
from finetune_operator.planners import plan

SECRET = {"secretRef": {"name": "keys"}}
BUCKET = {"bucket": "results", "endpoint": "http://store.example:7070", **SECRET}
RECORDED: dict[str, Manifest] = {
    "dataset": {"attempt": {"number": 1}},
    "preparation": {},
    "attempt": prepared(attempt={"number": 1}),
    "export": {"attempt": {"number": 1}},
}
KINDS = {"dataset": DATASET, "preparation": EXPERIMENT, "attempt": EXPERIMENT, "export": EXPORT}


def children(what: str, **spec: Any) -> tuple[Manifest, ...]:
    """Return the children that a recorded attempt gets."""
    kind = KINDS[what]
    status = RECORDED[what]
    if what == "preparation":
        pin = {"name": "questions", "digest": builders.digest("d"), "uri": "pvc://s"}
        digest = spec_digest(our_object(EXPERIMENT, **spec).spec)
        status = {"dataset": pin, "preparation": {"attempt": 1, "specDigest": digest}}
    if what == "attempt":
        status = prepared(**{**attempt(1), "children": {}})
    return plan(observed(kind, our_object(kind, status=status, **spec))).apply


def job_of(what: str, **spec: Any) -> Manifest:
    """Return the Job among the children."""
    return next(child for child in children(what, **spec) if child["kind"] == "Job")


def pod_of(what: str, **spec: Any) -> Manifest:
    """Return the pod template's spec of the Job."""
    spec_of: Manifest = job_of(what, **spec)["spec"]["template"]["spec"]
    return spec_of


def container_of(what: str, **spec: Any) -> Manifest:
    """Return the only container."""
    (container,) = pod_of(what, **spec)["containers"]
    return dict(container)


@pytest.mark.parametrize("what", RECORDED)
def test_every_pod_passes_the_restricted_standard(what: str) -> None:
    pod, container = pod_of(what), container_of(what)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    allowed = {"configMap", "emptyDir", "persistentVolumeClaim", "secret", "name"}
    assert {part for volume in pod["volumes"] for part in volume} <= allowed


@pytest.mark.parametrize("what", RECORDED)
def test_no_pod_holds_a_token_or_a_secret_in_its_environment(what: str) -> None:
    pod, container = pod_of(what), container_of(what)
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    sources = [variable["valueFrom"] for variable in container["env"] if "valueFrom" in variable]
    assert all(set(source) == {"fieldRef"} for source in sources)


@pytest.mark.parametrize("what", RECORDED)
def test_a_job_runs_once_and_replaces_no_pod(what: str) -> None:
    spec = job_of(what)["spec"]
    assert (spec["backoffLimit"], spec["completionMode"]) == (0, "Indexed")
    assert spec["podReplacementPolicy"] == "Failed"
    disruption, codes = spec["podFailurePolicy"]["rules"]
    assert disruption["onPodConditions"][0]["type"] == "DisruptionTarget"
    assert codes["onExitCodes"]["values"] == [10, 11, 12, 20, 21, 22, 30]
    assert {rule["action"] for rule in (disruption, codes)} == {"FailJob"}


@pytest.mark.parametrize("what", RECORDED)
def test_every_child_is_owned_without_blocking_its_owner(what: str) -> None:
    for child in children(what):
        (owner,) = child["metadata"]["ownerReferences"]
        assert owner["uid"] == builders.UIDS[KINDS[what]]
        assert (owner["controller"], owner["blockOwnerDeletion"]) == (True, False)
        assert "finalizers" not in child["metadata"]


@pytest.mark.parametrize("what", RECORDED)
def test_the_config_map_is_the_pods_and_holds_no_secret(what: str) -> None:
    config_map = next(child for child in children(what) if child["kind"] == "ConfigMap")
    assert config_map["immutable"] is True
    mounted = next(v for v in pod_of(what)["volumes"] if v["name"] == "config")
    assert mounted["configMap"]["name"] == config_map["metadata"]["name"]
    config = json.loads(config_map["data"][CONFIG_KEY])
    assert config["identity"]["uid"] == builders.UIDS[KINDS[what]]


COMPUTE: dict[str, tuple[Any, Callable[[Manifest, Manifest], Any], Any]] = {
    "image": ("own:1", lambda pod, c: c["image"], "own:1"),
    "imagePullPolicy": ("Always", lambda pod, c: c["imagePullPolicy"], "Always"),
    "imagePullSecrets": (["pull"], lambda pod, c: pod["imagePullSecrets"], [{"name": "pull"}]),
    "serviceAccountName": ("cloud", lambda pod, c: pod["serviceAccountName"], "cloud"),
    "runtimeClassName": ("nvidia", lambda pod, c: pod["runtimeClassName"], "nvidia"),
    "resources": (
        {"limits": {"cpu": "2"}}, lambda pod, c: c["resources"]["limits"]["cpu"], "2"
    ),
    "env": (
        [{"name": "LANG", "value": "C"}], lambda pod, c: {"name": "LANG", "value": "C"} in c["env"],
        True,
    ),
    "nodeSelector": ({"zone": "a"}, lambda pod, c: pod["nodeSelector"], {"zone": "a"}),
    "tolerations": (
        [{"operator": "Exists"}], lambda pod, c: pod["tolerations"], [{"operator": "Exists"}]
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", RECORDED)
@pytest.mark.parametrize("field", COMPUTE)
def test_every_field_of_compute_acts_on_every_pod(what: str, field: str) -> None:
    value, shown, expected = COMPUTE[field]
    pod = pod_of(what, compute={field: value})
    assert shown(pod, pod["containers"][0]) == expected


@pytest.mark.parametrize("what", RECORDED)
def test_scheduling_acts_on_every_pod(what: str) -> None:
    pod = pod_of(what, scheduling={"priorityClassName": "low", "schedulerName": "own"})
    assert (pod["priorityClassName"], pod["schedulerName"]) == ("low", "own")


def test_ranks_get_gpus_and_their_share_of_memory() -> None:
    compute = {
        "nodes": 3, "gpusPerNode": 4, "gpuResourceName": "nvidia.com/mig-1g.5gb",
        "resources": {"requests": {"memory": "16Gi"}},
    }  # fmt: skip
    container, job = container_of("attempt", compute=compute), job_of("attempt", compute=compute)
    assert container["resources"] == {
        "requests": {"memory": "16Gi"},
        "limits": {"memory": "20Gi", "nvidia.com/mig-1g.5gb": "4"},
    }
    assert (job["spec"]["completions"], job["spec"]["parallelism"]) == (3, 3)
    env = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert (env["PET_NNODES"], env["PET_NPROC_PER_NODE"]) == ("3", "4")
    assert env["MASTER_ADDR"] == "assistant-a1-0.assistant"


def test_shared_memory_counts_towards_a_given_limit() -> None:
    compute = {"sharedMemory": "3Gi", "resources": {"limits": {"memory": "5Gi"}}, "gpusPerNode": 0}
    pod = pod_of("attempt", compute=compute)
    assert pod["containers"][0]["resources"]["limits"]["memory"] == "8Gi"
    shared = next(volume for volume in pod["volumes"] if volume["name"] == "shared-memory")
    assert shared["emptyDir"] == {"medium": "Memory", "sizeLimit": "3Gi"}


def test_the_preparation_asks_for_no_gpu() -> None:
    pod = pod_of("preparation", compute={"gpusPerNode": 8})
    assert "nvidia.com/gpu" not in json.dumps(pod)
    assert job_of("preparation", compute={"nodes": 4})["spec"]["completions"] == 1


def test_claims_are_writable_only_where_results_go() -> None:
    mounts = {mount["mountPath"]: mount for mount in container_of("attempt")["volumeMounts"]}
    assert mounts["/mnt/claims/models"]["readOnly"] is True
    assert "readOnly" not in mounts["/mnt/claims/artifacts"]


def test_a_claim_that_is_read_and_written_is_mounted_once_and_writable() -> None:
    pod = pod_of("attempt", model={"volumeClaim": {"claimName": "artifacts", "path": "base"}})
    mounts = [m for m in pod["containers"][0]["volumeMounts"] if "claims" in m["mountPath"]]
    assert [(m["mountPath"], m.get("readOnly", False)) for m in mounts] == [
        ("/mnt/claims/artifacts", False)
    ]


SECRETS: list[tuple[str, Manifest]] = [
    ("dataset", {"sources": [{"s3": {**BUCKET, "bucket": "raw"}}]}),
    ("dataset", {"sources": [{"http": {"urls": ["https://a.example/x.csv"], **SECRET}}]}),
    ("dataset", {"hub": SECRET}),
    ("dataset", {"storage": {"s3": BUCKET}}),
    ("preparation", {"model": {"s3": BUCKET}}),
    ("attempt", {"model": {"s3": BUCKET}}),
    ("attempt", {"model": {"name": "Qwen/Qwen3-0.6B"}, "hub": SECRET}),
    ("attempt", {"storage": {"s3": BUCKET}}),
    ("export", {"targets": [{"name": "bucket", "s3": BUCKET}]}),
    ("export", {"storage": {"s3": BUCKET}}),
]


@pytest.mark.parametrize(("what", "spec"), SECRETS, ids=lambda part: str(part)[:40])
def test_every_secret_that_is_named_is_mounted_as_files(what: str, spec: Manifest) -> None:
    pod = pod_of(what, **spec)
    secrets = {v["secret"]["secretName"]: v["name"] for v in pod["volumes"] if "secret" in v}
    mount = next(m for m in pod["containers"][0]["volumeMounts"] if m["name"] == secrets["keys"])
    assert (mount["mountPath"], mount["readOnly"]) == ("/mnt/secrets/keys", True)


def test_names_with_dots_make_valid_volume_names() -> None:
    pod = pod_of("attempt", storage={"volumeClaim": {"claimName": "team.results"}})
    assert all("." not in volume["name"] for volume in pod["volumes"])


def test_scratch_is_bounded_as_the_spec_says() -> None:
    pod = pod_of("attempt", storage={**builders.STORAGE, "scratchSize": "5Gi"})
    scratch = next(volume for volume in pod["volumes"] if volume["name"] == "scratch")
    assert scratch["emptyDir"] == {"sizeLimit": "5Gi"}


def test_the_service_finds_rank_pods_and_nobody_else() -> None:
    service = next(child for child in children("attempt") if child["kind"] == "Service")
    ranks = job_of("attempt")["spec"]["template"]["metadata"]["labels"]
    preparation = job_of("preparation")["spec"]["template"]["metadata"]["labels"]
    selector = service["spec"]["selector"].items()
    assert selector <= ranks.items()
    assert not selector <= preparation.items()
    assert service["spec"]["publishNotReadyAddresses"] is True


@pytest.mark.parametrize(
    ("quantity", "size"),
    [
        ("1Gi", 2**30),
        ("1.5Gi", 3 * 2**29),
        ("500M", 5 * 10**8),
        ("128974848", 128974848),
        ("100m", 1),
    ],
)
def test_quantities_are_read_as_kubernetes_reads_them(quantity: str, size: int) -> None:
    assert quantity_bytes(quantity) == size
    assert quantity_bytes(memory_quantity(size)) == size


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (2048, "2.0 KiB"), (3 * 2**40, "3.0 TiB")]
)
def test_sizes_are_written_as_people_read_them(size: int, text: str) -> None:
    assert readable_size(size) == text
