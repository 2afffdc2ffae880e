"""Informers: the cache equals the server after any list, watch, gap or refusal."""

from __future__ import annotations

import asyncio

import pytest

from finetune_api.names import OWNER_LABELS
from finetune_operator import informers
from finetune_operator.cluster.cluster_protocol import Change
from finetune_operator.cluster.resources import DATASETS, PODS
from finetune_operator.errors import CredentialsError, NotServedError, UnavailableError
from finetune_operator.informers import ChildSink, Informer, ObjectSink, OptionalInformer
from finetune_operator.object_cache import ObjectCache
from finetune_operator.observed import Key
from finetune_operator.work_queue import WorkQueue
from recording_cluster import RecordingCluster, expired

OWNER = Key("Dataset", "ml", "faq")


def pod(name: str, *, phase: str = "Running", namespace: str = "ml") -> dict:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-{name}",
            "labels": {OWNER_LABELS["Dataset"]: "faq"},
        },
        "spec": {"nodeName": "n1", "containers": [{"name": "trainer", "image": "x"}]},
        "status": {"phase": phase},
    }


def dataset(name: str = "faq") -> dict:
    return {
        "apiVersion": DATASETS.api_version,
        "kind": "Dataset",
        "metadata": {"name": name, "namespace": "ml"},
        "spec": {},
    }


class Ground:
    def __init__(self) -> None:
        self.cluster, self.cache, self.queue = RecordingCluster(), ObjectCache(), WorkQueue()
        self.heard = 0

    def pods(self) -> Informer:
        return self._informer(PODS, ChildSink("Pod", self.cache, self.queue))

    def datasets(self) -> Informer:
        return self._informer(DATASETS, ObjectSink("Dataset", self.cache, self.queue))

    def _informer(self, resource, sink) -> Informer:
        return Informer(self.cluster, resource, sink, heard=self._note)

    def _note(self) -> None:
        self.heard += 1

    def living(self) -> set[str]:
        return {c.name for c in self.cache.children(OWNER, "Pod") if not c.gone}


@pytest.fixture
def ground(monkeypatch) -> Ground:
    monkeypatch.setattr(informers, "LONGEST_BACKOFF_SECONDS", 0.0)
    return Ground()


async def follow(informer: Informer) -> None:
    """Run until everything fed is taken in."""
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(informer.run(), 0.05)


async def test_the_first_list_fills_the_cache_and_wakes_the_owner(ground):
    ground.cluster.put(pod("a"))
    await follow(ground.pods())
    assert ground.living() == {"a"}
    assert ground.queue.depth() == 1


async def test_changes_after_the_list_are_taken_in(ground):
    ground.cluster.feeds["Pod"] = [Change("ADDED", pod("a")), Change("ADDED", pod("b"))]
    await follow(ground.pods())
    assert ground.living() == {"a", "b"}


async def test_after_410_the_list_is_made_anew_and_what_vanished_meanwhile_is_gone(ground):
    ground.cluster.put(dataset())
    await follow(ground.datasets())
    gone = ground.cluster.put(pod("a"))
    informer = ground.pods()

    def lose() -> None:
        ground.cluster.remove(gone)
        ground.cluster.put(pod("b"))

    ground.cluster.feeds["Pod"] = [Change("MODIFIED", gone), expired()]
    original = ground.cluster.changes

    def changes(resource, **kwargs):
        lose()
        return original(resource, **kwargs)

    ground.cluster.changes = changes
    await follow(informer)
    assert ground.cluster.lists == 3
    assert ground.living() == {"b"}
    (ended,) = [c for c in ground.cache.children(OWNER, "Pod") if c.gone]
    assert ended.name == "a"


async def test_the_last_state_of_a_deleted_pod_stays_readable(ground):
    """Exit codes and termination messages may arrive with the DELETED event only."""
    ground.cluster.put(dataset())
    await follow(ground.datasets())
    ground.cluster.put(pod("a"))
    ground.cluster.feeds["Pod"] = [Change("DELETED", pod("a", phase="Failed"))]
    await follow(ground.pods())
    (child,) = ground.cache.children(OWNER, "Pod")
    assert (child.gone, child.manifest()["status"]["phase"]) == (True, "Failed")


async def test_a_broken_watch_goes_on_without_a_new_list(ground):
    broken = UnavailableError("connection lost")
    ground.cluster.feeds["Pod"] = [broken, broken, Change("ADDED", pod("a"))]
    await follow(ground.pods())
    assert (ground.cluster.lists, ground.living()) == (1, {"a"})


async def test_a_refused_list_is_repeated(ground):
    ground.cluster.put(pod("a"))
    ground.cluster.fail_next("pages", UnavailableError("down"))
    await follow(ground.pods())
    assert (ground.cluster.lists, ground.living()) == (2, {"a"})


async def test_bookmarks_are_signs_of_life_and_nothing_else(ground):
    bookmark = Change("BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": "9"}})
    ground.cluster.feeds["Pod"] = [bookmark]
    await follow(ground.pods())
    assert (ground.heard, ground.living(), ground.queue.depth()) == (2, set(), 0)


async def test_rejected_credentials_end_the_informer(ground):
    ground.cluster.fail_next("pages", CredentialsError("no", status=401))
    with pytest.raises(CredentialsError):
        await asyncio.wait_for(ground.pods().run(), 1)


async def test_a_kind_that_comes_later_is_listed_then_and_holds_nothing_up(ground, monkeypatch):
    monkeypatch.setattr(informers, "KIND_LOOK_SECONDS", 0.0)
    for _ in range(2):
        ground.cluster.fail_next("pages", NotServedError("404 page not found", status=404))
    informer = OptionalInformer(
        ground.cluster, PODS, ChildSink("Pod", ground.cache, ground.queue), heard=ground._note
    )
    first = asyncio.create_task(informer.run())
    await informer.listed.wait()
    assert ground.living() == set()
    ground.cluster.put(pod("a"))
    await follow(informer)
    first.cancel()
    assert (ground.living(), ground.heard >= 2) == ({"a"}, True)


async def test_an_object_that_did_not_change_wakes_nobody_when_it_is_listed_again(ground):
    ground.cluster.put(dataset())
    await follow(ground.datasets())
    ground.queue.open()
    ground.queue.finished(await ground.queue.take())
    await follow(ground.datasets())
    assert ground.queue.depth() == 0


async def test_an_object_that_appears_wakes_those_who_wait_for_it(ground):
    waiter = Key("FineTuneExperiment", "ml", "run")
    ground.cache.set_references(waiter, [OWNER])
    ground.cluster.put(dataset())
    await follow(ground.datasets())
    ground.queue.open()
    assert {await ground.queue.take(), await ground.queue.take()} == {OWNER, waiter}
