"""An observation is complete: what the cache lacks is read where staleness could destroy."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest

import builders
from builders import DATASET, EXPERIMENT, NAMESPACE, NOW
from finetune_api.names import (
    ATTEMPT_LABEL,
    COMPONENT_LABEL,
    OWNER_LABELS,
    OWNER_UID_ANNOTATION,
)
from finetune_operator.child_facts import project
from finetune_operator.cluster.cluster_protocol import Page, Resource
from finetune_operator.errors import MalformedError
from finetune_operator.gather import Gather, absent_job
from finetune_operator.object_cache import ObjectCache
from finetune_operator.observed import Manifest, Observed

KEY = builders.key(EXPERIMENT)
UID = builders.UIDS[EXPERIMENT]


class ReadOnlyCluster:
    """Answers reads from a table and notes them; anything else is an error."""

    def __init__(self, *live: Manifest) -> None:
        self._live = {(item["kind"], item["metadata"]["name"]): item for item in live}
        self.reads: list[str] = []

    def now(self) -> datetime:
        """Return the tests' present."""
        return NOW

    async def read(self, resource: Resource, namespace: str, name: str) -> Manifest | None:
        """Return the live object."""
        self.reads.append(f"{resource.kind} {name}")
        return self._live.get((resource.kind, name))

    async def pages(
        self, resource: Resource, *, labels: str = "", metadata_only: bool = False
    ) -> AsyncIterator[Page]:
        """List everything of a kind, as an API server does: items without kind."""
        self.reads.append(f"list {resource.kind} {labels}")
        found = [item for (kind, _), item in self._live.items() if kind == resource.kind]
        bare = [
            {k: v for k, v in item.items() if k not in ("kind", "apiVersion")} for item in found
        ]
        yield Page(bare, "9")


def manifest(found: Any, kind: str) -> Manifest:
    """Return an object of ours as it lies in the cache."""
    return {"kind": kind} | json.loads(found.model_dump_json(by_alias=True))


def child(kind: str, name: str, *, owner_uid: str = UID, attempt: int = 1, **more: Any) -> Manifest:
    """Return a Job or Pod with the labels and owner of our experiment."""
    owner = {"controller": True, "uid": owner_uid, "kind": EXPERIMENT, "name": KEY.name}
    labels = {
        OWNER_LABELS[EXPERIMENT]: KEY.name, COMPONENT_LABEL: "attempt", ATTEMPT_LABEL: str(attempt),
    }  # fmt: skip
    metadata = {
        "name": name, "namespace": NAMESPACE, "uid": f"uid-{name}", "labels": labels,
        "ownerReferences": [owner],
    }  # fmt: skip
    return {"apiVersion": "batch/v1" if kind == "Job" else "v1", "kind": kind, "metadata": metadata,
            "status": {}} | more  # fmt: skip


def a_pod(
    name: str, *, of: str = "assistant-a1", owner: str = UID, phase: str = "Running"
) -> Manifest:
    """Return a Pod of a Job of the experiment."""
    found = child("Pod", name, owner_uid=f"uid-{of}", status={"phase": phase})
    found["metadata"]["ownerReferences"][0] |= {"kind": "Job", "name": of}
    found["metadata"]["annotations"] = {OWNER_UID_ANNOTATION: owner}
    return found


def cache_with(experiment: Any, *children: Manifest) -> ObjectCache:
    """Return a cache that knows the experiment, its Dataset and some children."""
    cache = ObjectCache()
    cache.store(KEY, manifest(experiment, EXPERIMENT))
    cache.store(builders.key(DATASET), manifest(builders.ready_dataset(), DATASET))
    for item in children:
        cache.store_child(project(item))
    return cache


async def gathered(cluster: ReadOnlyCluster, cache: ObjectCache) -> Observed:
    """Return what is observed of the experiment."""
    gather: Any = Gather(cluster, cache, policy=builders.POLICY, fence=lambda: 4)  # type: ignore[arg-type]
    found: Observed = await gather(KEY)
    return found


def running() -> Any:
    """Return an experiment whose first attempt is recorded."""
    status = builders.prepared(**builders.attempt(1))
    return builders.our_object(EXPERIMENT, status=status)


async def test_an_object_nobody_knows_is_no_observation() -> None:
    gather = Gather(ReadOnlyCluster(), ObjectCache(), policy=builders.POLICY)  # type: ignore[arg-type]
    assert await gather(KEY) is None


async def test_children_come_from_the_cache_with_their_pods() -> None:
    cluster = ReadOnlyCluster()
    cache = cache_with(running(), child("Job", "assistant-a1"), a_pod("p0"), a_pod("p1"))
    found = await gathered(cluster, cache)
    assert [(job.attempt, len(job.pods), job.gone) for job in found.jobs] == [(1, 2, False)]
    assert (cluster.reads, found.fence) == ([], 4)


async def test_a_job_the_cache_does_not_know_yet_is_read_live() -> None:
    cluster = ReadOnlyCluster(child("Job", "assistant-a1"))
    found = await gathered(cluster, cache_with(running(), a_pod("p0")))
    assert [(job.ref.name, job.gone, len(job.pods)) for job in found.jobs] == [
        ("assistant-a1", False, 1)
    ]


async def test_pods_whose_job_is_gone_still_count() -> None:
    found = await gathered(ReadOnlyCluster(), cache_with(running(), a_pod("p0")))
    (job,) = found.jobs
    assert (job.gone, job.attempt, job.may_run) == (True, 1, True)


async def test_a_job_of_somebody_else_takes_the_name() -> None:
    stranger = child("Job", "assistant-a1", owner_uid="other")
    stranger["metadata"]["ownerReferences"][0]["name"] = "somebody"
    found = await gathered(ReadOnlyCluster(stranger), cache_with(running()))
    assert found.foreign_names == {"Job assistant-a1"}


async def test_a_predecessor_is_no_stranger_and_its_pods_are_counted() -> None:
    old = child("Job", "assistant-a1", owner_uid="uid-before")
    cache = cache_with(running(), old, a_pod("p0", owner="uid-before"))
    found = await gathered(ReadOnlyCluster(old), cache)
    assert (found.foreign_names, found.jobs, found.predecessor_pods) == (frozenset(), (), 1)


async def test_pods_are_listed_before_an_attempt_follows_another() -> None:
    status = builders.ended_status("Unknown")
    unseen = a_pod("late", of="assistant-a1")
    cache = cache_with(builders.our_object(EXPERIMENT, status=status))
    found = await gathered(ReadOnlyCluster(unseen), cache)
    assert [pod.name for job in found.jobs for pod in job.pods] == ["late"]


async def test_pods_are_listed_before_a_preparation_follows_another() -> None:
    status = {"revision": 1, "preparation": {"attempt": 1, "revision": 1, "ended": "Replaced"}}
    unseen = a_pod("late", of="assistant-p1")
    cache = cache_with(builders.our_object(EXPERIMENT, status=status))
    found = await gathered(ReadOnlyCluster(unseen), cache)
    assert [pod.name for job in found.jobs for pod in job.pods] == ["late"]


async def test_the_last_word_of_an_ended_job_is_read_live() -> None:
    done = child(
        "Job", "assistant-a1", status={"conditions": [{"type": "Complete", "status": "True"}]}
    )
    ended = a_pod("p0", phase="Succeeded")
    found = await gathered(ReadOnlyCluster(ended), cache_with(running(), done, a_pod("p0")))
    assert [pod.phase for job in found.jobs for pod in job.pods] == ["Succeeded"]


async def test_pods_of_others_with_our_label_are_not_ours() -> None:
    cluster = ReadOnlyCluster(a_pod("p0"))
    cache = cache_with(builders.our_object(EXPERIMENT))
    dataset = builders.our_object(DATASET, status={"attempt": {"number": 1, "ended": "Unknown"}})
    cache.store(builders.key(DATASET), manifest(dataset, DATASET))
    gather = Gather(cluster, cache, policy=builders.POLICY)  # type: ignore[arg-type]
    found = await gather(builders.key(DATASET))
    assert found is not None
    assert (found.jobs, found.predecessor_pods) == ((), 0)


async def test_a_reference_the_cache_lacks_is_read_live() -> None:
    dataset = manifest(builders.ready_dataset(), DATASET)
    cache = ObjectCache()
    cache.store(KEY, manifest(builders.our_object(EXPERIMENT), EXPERIMENT))
    found = await gathered(ReadOnlyCluster(dataset), cache)
    assert found.references[builders.key(DATASET)] == builders.ready_dataset()
    absent = await gathered(ReadOnlyCluster(), cache)
    assert absent.references == {builders.key(DATASET): None}


async def test_a_finished_object_costs_no_read() -> None:
    cluster = ReadOnlyCluster()
    await gathered(cluster, cache_with(builders.complete_experiment()))
    assert cluster.reads == []


@pytest.mark.parametrize(
    ("run", "known"), [(f"{UID}/1", True), (f"{UID}/2", False), ("x/1", False)]
)
async def test_progress_of_another_run_is_ignored(run: str, known: bool) -> None:
    cache = cache_with(running(), child("Job", "assistant-a1"), a_pod("rank-0"))
    told = builders.progress("Training").model_copy(update={"run": run})
    cache.store_progress("uid-rank-0", told)
    found = await gathered(ReadOnlyCluster(), cache)
    assert (found.jobs[0].progress is not None) is known


async def test_what_a_pod_answered_is_forgotten_with_it() -> None:
    """A queue may stop and start the same Job: its next pods have not answered yet."""
    job, old, new = child("Job", "assistant-a1"), a_pod("rank-0"), a_pod("rank-0-again")
    cache = cache_with(running(), job, old, new)
    cache.store_progress("uid-rank-0", builders.progress("Training"))
    cache.forget_child(("Pod", NAMESPACE, "uid-rank-0"))
    found = await gathered(ReadOnlyCluster(), cache)
    assert found.jobs[0].progress is None


async def test_an_object_that_does_not_fit_its_schema_is_named() -> None:
    cache = ObjectCache()
    broken = manifest(builders.our_object(EXPERIMENT), EXPERIMENT)
    broken["spec"]["training"]["epochs"] = "many"
    cache.store(KEY, broken)
    with pytest.raises(MalformedError, match=r"spec\.training\.epochs"):
        await gathered(ReadOnlyCluster(), cache)


async def test_jobs_that_were_judged_before_cost_no_read() -> None:
    status = builders.prepared(**builders.attempt(2))
    failed = {"conditions": [{"type": "Failed", "status": "True"}]}
    jobs = child("Job", "assistant-a1", status=failed), child("Job", "assistant-a2", attempt=2)
    cluster = ReadOnlyCluster()
    await gathered(cluster, cache_with(builders.our_object(EXPERIMENT, status=status), *jobs))
    assert cluster.reads == []


async def test_before_anything_was_begun_no_job_is_looked_for() -> None:
    cluster = ReadOnlyCluster(child("Job", "assistant-p1"))
    found = await gathered(cluster, cache_with(builders.our_object(EXPERIMENT)))
    assert (found.jobs, cluster.reads) == ((), [])


async def test_a_job_that_was_absent_a_moment_ago_is_not_read_again() -> None:
    cluster = ReadOnlyCluster()
    gather = Gather(cluster, cache_with(running()), policy=builders.POLICY)  # type: ignore[arg-type]
    first = await gather(KEY)
    assert first is not None
    assert absent_job(first) == "assistant-a1"
    await gather(KEY, absent=absent_job(first))
    assert cluster.reads == ["Job assistant-a1"]
    await gather(KEY, absent="assistant-a2")
    assert len(cluster.reads) == 2


@pytest.mark.parametrize("owner", [UID, "other"])
async def test_a_name_that_is_in_use_is_not_called_absent(owner: str) -> None:
    job = child("Job", "assistant-a1", owner_uid=owner)
    job["metadata"]["ownerReferences"][0]["name"] = KEY.name if owner == UID else "somebody"
    assert absent_job(await gathered(ReadOnlyCluster(job), cache_with(running()))) == ""
