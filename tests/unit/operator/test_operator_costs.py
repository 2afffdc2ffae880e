"""What the operator may cost, counted: a change that adds a call must change a number here."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator

import pytest

import builders
from finetune_api.conditions import CONDITION_TYPES
from finetune_api.names import DATASET, EXPERIMENT, preparation_job
from finetune_operator.assembly import Assembly
from finetune_operator.child_facts import project
from finetune_operator.cluster.cluster_protocol import Page, Resource
from finetune_operator.object_cache import ObjectCache
from finetune_operator.observed import Key, Manifest, Policy
from finetune_operator.status import as_json
from finetune_operator.work_queue import Lane
from recording_cluster import RecordingCluster

FINISHED = {DATASET: builders.ready_dataset, EXPERIMENT: builders.complete_experiment}
FIRST_JOB = [
    "status",
    "create NetworkPolicy",
    "create ConfigMap",
    "create Job",
    "event PreparationStarted",
]
"""A new experiment whose Dataset is ready: four writes until its first Job, and no read."""


class CountingCluster(RecordingCluster):
    """Notes every call in the order of calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    async def read(self, resource: Resource, namespace: str, name: str) -> Manifest | None:
        self.calls.append(f"read {resource.kind}")
        return await super().read(resource, namespace, name)

    async def pages(
        self, resource: Resource, *, labels: str = "", metadata_only: bool = False
    ) -> AsyncIterator[Page]:
        self.calls.append(f"list {resource.kind}")
        async for page in super().pages(resource, labels=labels, metadata_only=metadata_only):
            yield page

    async def apply(self, child: Manifest, *, force: bool) -> Manifest:
        self.calls.append(f"apply {child['kind']}")
        return await super().apply(child, force=force)

    async def create(self, child: Manifest) -> None:
        self.calls.append(f"create {child['kind']}")
        await super().create(child)

    async def write_status(self, key: Key, status: Manifest, *, resource_version: str) -> Manifest:
        self.calls.append("status")
        return await super().write_status(key, status, resource_version=resource_version)

    async def post_event(self, event: Manifest) -> None:
        self.calls.append(f"event {event['reason']}")
        await super().post_event(event)


def manifest(kind: str, name: str | None = None, **status: object) -> Manifest:
    """Return a finished object of a kind as the API server holds it."""
    told = {
        name: "True" if name in ("Ready", "Complete") else "False" for name in CONDITION_TYPES[kind]
    }
    found = FINISHED[kind](conditions=builders.conditions(**told), observedGeneration=1)
    whole: Manifest = json.loads(found.model_dump_json(by_alias=True, exclude_none=True))
    whole |= {"kind": kind, "status": as_json(found.status)}
    whole["metadata"]["name"] = name or whole["metadata"]["name"]
    return whole


def new_experiment() -> Manifest:
    """Return an experiment that nobody has looked at yet."""
    return manifest(EXPERIMENT) | {"status": {}}


async def rest(assembly: Assembly, seconds: float = 5) -> None:
    """Work until nothing is ready."""
    assembly.queue.open()
    worker = asyncio.create_task(assembly.reconciler.work())
    async with asyncio.timeout(seconds):
        await asyncio.sleep(0)
        while not assembly.queue.is_idle():  # noqa: ASYNC110 - the queue has no such event
            await asyncio.sleep(0.001)
    worker.cancel()


async def test_a_new_experiment_gets_its_first_job_in_one_turn_and_four_writes():
    cluster = CountingCluster()
    assembly = Assembly(cluster, Policy(image="x"))
    for one in (manifest(DATASET), new_experiment()):
        assembly.sinks[one["kind"]].seen(cluster.put(one), lane=Lane.URGENT)
    await rest(assembly)
    assert cluster.calls == FIRST_JOB


async def test_a_job_of_somebody_else_is_told_of_once_and_left_alone():
    cluster = CountingCluster()
    assembly = Assembly(cluster, Policy(image="x"))
    name = preparation_job(builders.NAMES[EXPERIMENT], 1, 1)
    stranger = {"apiVersion": "batch/v1", "kind": "Job"}
    stranger["metadata"] = {"name": name, "namespace": builders.NAMESPACE}
    kept = copy.deepcopy(cluster.put(stranger))
    for one in (manifest(DATASET), new_experiment()):
        assembly.sinks[one["kind"]].seen(cluster.put(one), lane=Lane.URGENT)
    await rest(assembly)
    assert cluster.calls[:6] == [*FIRST_JOB[:4], "read Job", "status"]
    assert {call for call in cluster.calls[6:] if "event" not in call} == set()
    assert cluster.objects["Job", builders.NAMESPACE, name] == kept
    [run] = [one for one in cluster.objects.values() if one["kind"] == EXPERIMENT]
    ready = next(one for one in run["status"]["conditions"] if one["type"] == "Ready")
    assert ready["reason"] == "NameTaken"


async def test_seeing_the_job_costs_one_more_write_and_then_there_is_rest():
    cluster = CountingCluster()
    assembly = Assembly(cluster, Policy(image="x"))
    for one in (manifest(DATASET), new_experiment()):
        assembly.sinks[one["kind"]].seen(cluster.put(one), lane=Lane.URGENT)
    await rest(assembly)
    del cluster.calls[:]
    [job] = [one for one in cluster.objects.values() if one["kind"] == "Job"]
    for _ in range(3):
        assembly.queue.add(assembly.cache.store_child(project(job)))
        await rest(assembly)
    assert cluster.calls == ["status"]


@pytest.mark.parametrize("kind", FINISHED)
async def test_a_finished_object_costs_no_call_and_leaves_no_timer(kind):
    cluster = CountingCluster()
    assembly = Assembly(cluster, Policy(image="x"))
    for number in range(50):
        one = cluster.put(manifest(kind, f"run-{number}"))
        assembly.sinks[kind].seen(one, lane=Lane.PATIENT)
    await rest(assembly)
    assert (cluster.calls, assembly.queue._heap, assembly.queue._due) == ([], [], {})


@pytest.mark.parametrize("kind", FINISHED)
def test_a_cached_object_takes_the_bytes_of_its_json_without_managed_fields(kind):
    cache, one = ObjectCache(), manifest(kind)
    key = Key(kind, builders.NAMESPACE, one["metadata"]["name"])
    fields = {"manager": "kubectl", "fieldsV1": {f"f:{n}": {} for n in range(500)}}
    one["metadata"]["managedFields"] = [fields]
    cache.store(key, one)
    del one["metadata"]["managedFields"]
    kept = cache.text(key) or b""
    assert json.loads(kept) == one
    assert len(kept) <= len(json.dumps(one))


def test_a_cached_pod_takes_no_more_than_a_kilobyte_beside_its_last_words():
    labels = {"finetune.dev/experiment": "run", "finetune.dev/attempt": "1"}
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "run-a1", "uid": "u", "controller": 1}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "run-a1-0", "namespace": "ml", "uid": "p", "labels": labels,
            "ownerReferences": [owner], "managedFields": [{"fieldsV1": {"f": "x" * 5000}}],
        },
        "spec": {"nodeName": "n", "containers": [{"env": [{"name": "A", "value": "x" * 5000}]}]},
        "status": {"phase": "Running", "podIP": "10.0.0.1", "hostIPs": ["x" * 500]},
    }  # fmt: skip
    cache = ObjectCache()
    owner_of = cache.store_child(project(pod))
    [child] = cache.children(owner_of, "Pod")
    assert len(child.text) <= 1024
