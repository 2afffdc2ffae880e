"""Where rank pods go and what they get there: gangs, topology, GPUs, profiles, overrides."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml

import builders
from builders import DATASET, EXPERIMENT, EXPORT, our_object, prepared
from finetune_api.names import JOB_SET, PLAN_DIGEST_ANNOTATION, POD_GROUP
from finetune_api.network_profile import NetworkProfile
from finetune_operator.manifests.identity import spec_digest
from finetune_operator.manifests.pod_template import merged
from finetune_operator.observed import Manifest, Policy
from finetune_operator.planners import plan

ROCE = NetworkProfile(
    environment={"NCCL_IB_HCA": "mlx5", "TORCH_FR_BUFFER_SIZE": "9000"},
    resources={"rdma/hca": "1"},
    capabilities=["IPC_LOCK"],
    annotations={"k8s.v1.cni.cncf.io/networks": "roce"},
)
POLICY = Policy(
    image="trainer:test",
    optional_kinds=frozenset({JOB_SET, POD_GROUP}),
    network_profiles={"roce": ROCE, "plain": NetworkProfile()},
)
RACK = "example.com/rack"
STATUS: dict[str, Manifest] = {
    DATASET: {"attempt": {"number": 1}},
    EXPERIMENT: prepared(attempt={"number": 1}),
    EXPORT: {"attempt": {"number": 1}},
}


def answer(kind: str = EXPERIMENT, policy: Policy = POLICY, **spec: Any) -> Any:
    """Return the plan for an object whose first attempt is recorded."""
    found = our_object(kind, status=STATUS[kind], **spec)
    return plan(builders.observed(kind, found, policy=policy))


def template(kind: str = EXPERIMENT, **spec: Any) -> Manifest:
    """Return the template of its pods."""
    found: Manifest = builders.child(answer(kind, **spec), "Job")["spec"]["template"]
    return found


def container(**spec: Any) -> Manifest:
    """Return the trainer's container."""
    [found] = template(**spec)["spec"]["containers"]
    return dict(found)


def variables(**spec: Any) -> dict[str, Any]:
    """Return the trainer's environment; no name stands there twice."""
    env = container(**spec)["env"]
    assert len({variable["name"] for variable in env}) == len(env)
    return {variable["name"]: variable.get("value") for variable in env}


def compute(**fields: Any) -> dict[str, Any]:
    """Return a spec's compute block."""
    return {"compute": {"nodes": 2, "gpusPerNode": 0} | fields}


WHOLE: dict[str, Manifest] = {
    "attempt-jobset": {
        "scheduling": {"engine": "JobSet", "queueName": "research", "topologyKey": RACK},
    },
    "attempt-volcano": {
        "scheduling": {"gang": "Volcano", "queueName": "research", "topologyKey": RACK},
        **compute(gpusPerNode=8, gpuProducts=["NVIDIA-H100-80GB-HBM3"], networkProfile="roce"),
    },
}


@pytest.mark.parametrize("name", WHOLE)
def test_children_are_rendered_as_recorded(name: str, golden: Callable[[str, str], None]) -> None:
    children = [c for c in answer(**WHOLE[name]).apply if c["kind"] in ("Job", JOB_SET, POD_GROUP)]
    for child in children:
        del child["metadata"]["annotations"][PLAN_DIGEST_ANNOTATION]  # changes with any new field
    golden(f"children/{name}.yaml", yaml.safe_dump_all(children, sort_keys=False, width=100))


@pytest.mark.parametrize("engine", ["Job", "JobSet"])
def test_volcano_gets_a_group_of_all_pods_before_they_exist(engine: str) -> None:
    scheduling = {
        "gang": "Volcano", "queueName": "research", "priorityClassName": "high", "engine": engine,
    }  # fmt: skip
    applied = answer(scheduling=scheduling).apply
    kinds = [child["kind"] for child in applied]
    group = applied[kinds.index("PodGroup")]
    assert kinds.index("PodGroup") < kinds.index(engine)
    assert group["apiVersion"] == "scheduling.volcano.sh/v1beta1"
    assert group["spec"] == {"minMember": 2, "queue": "research", "priorityClassName": "high"}
    child = applied[kinds.index(engine)]
    assert "suspend" not in child["spec"]
    assert "kueue" not in json.dumps(child)
    job = child if engine == "Job" else child["spec"]["replicatedJobs"][0]["template"]
    pods = job["spec"]["template"]
    assert pods["spec"]["schedulerName"] == "volcano"
    named = pods["metadata"]["annotations"]["scheduling.k8s.io/group-name"]
    assert named == group["metadata"]["name"]


def test_each_attempt_has_its_own_group_in_volcanos_default_queue() -> None:
    found = our_object(
        EXPERIMENT, status=prepared(attempt={"number": 7}), scheduling={"gang": "Volcano"}
    )
    group = builders.child(plan(builders.observed(EXPERIMENT, found, policy=POLICY)), "PodGroup")
    assert group["metadata"]["name"] == "assistant-a7"
    assert group["spec"] == {"minMember": 2}


def test_a_preparation_joins_no_gang_and_wants_no_gpu_nodes() -> None:
    spec: dict[str, Any] = {
        "scheduling": {"gang": "Volcano", "topologyKey": RACK, "engine": "JobSet"},
        **compute(gpusPerNode=8, gpuProducts=["Tesla-T4"], networkProfile="roce"),
    }
    first = builders.observed(EXPERIMENT, our_object(EXPERIMENT, **spec), policy=POLICY)
    applied = plan(builders.published(first, plan(first))).apply
    assert [child["kind"] for child in applied] == ["NetworkPolicy", "ConfigMap", "Job"]
    pod = applied[-1]["spec"]["template"]
    assert {"affinity", "schedulerName"} & set(pod["spec"]) == set()
    assert set(pod["metadata"]["annotations"]) == {"finetune.dev/owner-uid"}
    assert "rdma/hca" not in json.dumps(pod)


SWITCHED_OFF = {
    "JobSets": ({"scheduling": {"engine": "JobSet"}}, "settings.jobSets"),
    "Volcano": ({"scheduling": {"gang": "Volcano"}}, "settings.volcano"),
    "a profile nobody set": (compute(networkProfile="efa"), "has set none"),
}


@pytest.mark.parametrize("what", SWITCHED_OFF)
@pytest.mark.parametrize("prepared_already", [True, False])
def test_what_the_administrator_does_not_offer_stalls(what: str, prepared_already: bool) -> None:
    spec, words = SWITCHED_OFF[what]
    status = prepared() if prepared_already else {}
    if status:
        status["preparation"]["specDigest"] = spec_digest(our_object(EXPERIMENT, **spec).spec)
    found = our_object(EXPERIMENT, status=status, **spec)
    refused = plan(builders.observed(EXPERIMENT, found))
    assert builders.condition(refused, "Stalled") == ("True", "NotAvailable")
    assert words in builders.message(refused)
    assert refused.apply == ()


def test_an_unknown_profile_is_answered_with_the_known_ones() -> None:
    refused = answer(**compute(networkProfile="efa"))
    assert builders.message(refused).endswith("efa is unknown; known: plain, roce")


TOPOLOGIES = [
    ({"topologyMode": "Required"}, "requiredDuringSchedulingIgnoredDuringExecution"),
    ({"topologyMode": "Preferred"}, "preferredDuringSchedulingIgnoredDuringExecution"),
    ({}, "preferredDuringSchedulingIgnoredDuringExecution"),
]


@pytest.mark.parametrize(("mode", "rule"), TOPOLOGIES)
def test_pods_of_an_attempt_share_a_place(mode: dict[str, str], rule: str) -> None:
    pods = template(scheduling={"topologyKey": RACK} | mode)
    [term] = pods["spec"]["affinity"]["podAffinity"][rule]
    term = term.get("podAffinityTerm", term)
    assert term["topologyKey"] == RACK
    assert term["labelSelector"]["matchLabels"] == pods["metadata"]["labels"]
    assert pods["metadata"]["labels"]["finetune.dev/attempt"] == "1"


@pytest.mark.parametrize(("mode", "word"), [("Required", "required"), ("Preferred", "preferred")])
def test_in_a_queue_kueue_chooses_the_place(mode: str, word: str) -> None:
    queued = {"queueName": "research", "topologyKey": RACK, "topologyMode": mode}
    pods = template(scheduling=queued)
    assert pods["metadata"]["annotations"][f"kueue.x-k8s.io/podset-{word}-topology"] == RACK
    assert "affinity" not in pods["spec"]


def test_accepted_products_are_asked_of_the_node() -> None:
    products = ["NVIDIA-H100-80GB-HBM3", "NVIDIA-A100-SXM4-80GB"]
    pods = template(**compute(gpusPerNode=8, gpuProducts=products))
    required = pods["spec"]["affinity"]["nodeAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]
    [term] = required["nodeSelectorTerms"]
    assert term["matchExpressions"] == [
        {"key": "nvidia.com/gpu.product", "operator": "In", "values": products}
    ]


def test_a_profile_gives_devices_variables_annotations_and_the_one_capability() -> None:
    pods = template(**compute(gpusPerNode=1, networkProfile="roce"))
    [trainer] = pods["spec"]["containers"]
    assert trainer["resources"]["limits"] == {"nvidia.com/gpu": "1", "rdma/hca": "1"}
    assert trainer["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    assert trainer["securityContext"]["allowPrivilegeEscalation"] is False
    assert pods["metadata"]["annotations"]["k8s.v1.cni.cncf.io/networks"] == "roce"
    found = variables(**compute(networkProfile="roce"))
    assert (found["NCCL_IB_HCA"], found["TORCH_FR_BUFFER_SIZE"]) == ("mlx5", "9000")


def test_without_a_profile_every_capability_is_dropped() -> None:
    assert container()["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_collectives_fail_with_their_peers_and_leave_a_trace() -> None:
    found = variables()
    assert found["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == "3"
    assert int(found["TORCH_FR_BUFFER_SIZE"]) > 0
    assert found["TORCH_FR_DUMP_TEMP_FILE"].startswith("/scratch/")
    own = variables(**compute(env=[{"name": "TORCH_FR_BUFFER_SIZE", "value": "1"}]))
    assert own["TORCH_FR_BUFFER_SIZE"] == "1"


def test_a_profile_cannot_set_what_the_operator_sets() -> None:
    with pytest.raises(ValueError, match="MASTER_ADDR"):
        NetworkProfile(environment={"MASTER_ADDR": "x"})


OVERRIDES = {
    "metadata": {"labels": {"team": "nlp"}, "annotations": {"sidecar.istio.io/inject": "false"}},
    "spec": {
        "dnsPolicy": "Default",
        "securityContext": {"runAsUser": 1000},
        "volumes": [{"name": "cache", "emptyDir": {}}],
        "containers": [
            {
                "name": "trainer",
                "env": [{"name": "LANG", "value": "C"}],
                "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
            }
        ],
        "initContainers": [{"name": "proxy", "image": "proxy:1", "restartPolicy": "Always"}],
    },
}


@pytest.mark.parametrize("kind", [DATASET, EXPERIMENT, EXPORT])
def test_overrides_are_merged_over_the_pods_of_every_kind(kind: str) -> None:
    plain, pods = template(kind), template(kind, podOverrides=OVERRIDES)
    labels, annotations = pods["metadata"]["labels"], pods["metadata"]["annotations"]
    assert labels == plain["metadata"]["labels"] | {"team": "nlp"}
    assert annotations == plain["metadata"]["annotations"] | OVERRIDES["metadata"]["annotations"]
    [trainer], [before] = pods["spec"]["containers"], plain["spec"]["containers"]
    assert trainer["env"] == [*before["env"], {"name": "LANG", "value": "C"}]
    assert trainer["volumeMounts"][:-1] == before["volumeMounts"]
    assert pods["spec"]["volumes"] == [*plain["spec"]["volumes"], {"name": "cache", "emptyDir": {}}]
    assert pods["spec"]["securityContext"] == plain["spec"]["securityContext"] | {"runAsUser": 1000}
    for field in ("image", "command", "securityContext", "ports"):
        assert trainer[field] == before[field]


def test_a_preparation_gets_overrides_as_well() -> None:
    spec = {"podOverrides": OVERRIDES}
    first = builders.observed(EXPERIMENT, our_object(EXPERIMENT, **spec), policy=POLICY)
    job = plan(builders.published(first, plan(first))).apply[-1]
    assert job["spec"]["template"]["metadata"]["labels"]["team"] == "nlp"


def test_an_added_container_is_as_restricted_as_the_trainer() -> None:
    [helper] = template(podOverrides=OVERRIDES)["spec"]["initContainers"]
    assert helper["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert helper["restartPolicy"] == "Always"


@pytest.mark.parametrize(
    ("under", "over", "together"),
    [
        ({"a": 1, "b": 2}, {"b": 3, "c": 4}, {"a": 1, "b": 3, "c": 4}),
        ({"a": {"b": 1}}, {"a": {"c": 2}}, {"a": {"b": 1, "c": 2}}),
        ([{"name": "a", "x": 1}], [{"name": "a", "y": 2}], [{"name": "a", "x": 1, "y": 2}]),
        ([{"name": "a"}], [{"name": "b"}], [{"name": "a"}, {"name": "b"}]),
        (
            [{"name": "v", "mountPath": "/a"}],
            [{"name": "v", "mountPath": "/b"}],
            [{"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/b"}],
        ),
        ([1, 2], [3], [3]),
        ({"a": [1]}, {"a": {"b": 1}}, {"a": {"b": 1}}),
    ],
)
def test_maps_merge_named_things_merge_by_name_and_the_rest_is_replaced(
    under: Any, over: Any, together: Any
) -> None:
    assert merged(under, over) == together
