"""The audit: what the cache believes is compared with what the server has."""

from __future__ import annotations

import pytest

from finetune_operator import audit as audit_module
from finetune_operator.audit import Audit
from finetune_operator.cluster.resources import OURS
from finetune_operator.errors import UnavailableError
from finetune_operator.informers import ObjectSink
from finetune_operator.object_cache import ObjectCache
from finetune_operator.observed import Key
from finetune_operator.work_queue import Lane, WorkQueue
from recording_cluster import RecordingCluster

FAQ = Key("Dataset", "ml", "faq")


def dataset(note: str = "") -> dict:
    metadata = {"name": "faq", "namespace": "ml", "uid": "u1"}
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "Dataset",
        "metadata": metadata,
        "x": note,
    }


class Ground:
    def __init__(self) -> None:
        self.cluster, self.cache, self.queue = RecordingCluster(), ObjectCache(), WorkQueue()
        self.sinks = {kind: ObjectSink(kind, self.cache, self.queue) for kind in OURS}
        self.audit = Audit(self.cluster, self.cache, self.sinks)

    def watched(self, item: dict) -> None:
        self.sinks["Dataset"].seen(item, lane=Lane.URGENT)

    def version(self) -> str | None:
        known = self.cache.version(FAQ)
        return known[1] if known else None


@pytest.fixture
def ground(monkeypatch) -> Ground:
    monkeypatch.setattr(audit_module, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr(audit_module, "BARRIER_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(audit_module, "RETRY_SECONDS", 0.0)
    return Ground()


async def test_a_ghost_is_forgotten_and_its_key_planned_once_more(ground):
    item = ground.cluster.put(dataset())
    ground.watched(item)
    ground.cluster.remove(item)
    await ground.audit.look()
    assert (ground.version(), ground.queue.depth()) == (None, 1)


async def test_a_missed_object_is_read_and_planned(ground):
    ground.cluster.put(dataset())
    await ground.audit.look()
    assert (ground.version(), ground.queue.depth()) == ("1", 1)


async def test_one_missed_change_is_taken_in_and_the_watch_is_not_yet_called_deaf(ground):
    ground.watched(ground.cluster.put(dataset()))
    ground.cluster.put(dataset("changed"))
    await ground.audit.look()
    assert (ground.version(), ground.audit.is_deaf) == ("2", False)


async def test_a_version_that_came_while_the_list_was_made_is_no_miss(ground):
    listed = ground.cluster.put(dataset())
    ground.watched(ground.cluster.put(dataset("written meanwhile")))
    ground.cluster.objects["Dataset", "ml", "faq"] = listed
    await ground.audit.look()
    await ground.audit.look()
    assert (ground.version(), ground.audit.is_deaf) == ("2", False)


async def test_changes_of_one_object_missed_in_two_passes_mean_a_deaf_watch(ground):
    ground.watched(ground.cluster.put(dataset()))
    for note in ("first", "second"):
        ground.cluster.put(dataset(note))
        await ground.audit.look()
    assert ground.audit.is_deaf


async def test_a_change_that_arrives_within_its_grace_is_no_miss(ground, monkeypatch):
    ground.watched(ground.cluster.put(dataset()))
    late = ground.cluster.put(dataset("changed"))

    async def arrive(_seconds: float) -> None:
        ground.watched(late)

    monkeypatch.setattr(audit_module.asyncio, "sleep", arrive)
    for _ in range(2):
        await ground.audit.look()
    assert not ground.audit.is_deaf


async def test_the_barrier_opens_when_every_listed_object_arrived(ground):
    ground.watched(ground.cluster.put(dataset()))
    await ground.audit.barrier([FAQ])
    assert ground.version() == "1"


async def test_the_barrier_does_not_wait_for_ever_for_what_is_gone_or_was_not_told(ground):
    ground.cluster.put(dataset())
    await ground.audit.barrier([FAQ, Key("Dataset", "ml", "deleted-meanwhile")])
    assert ground.version() == "1"


async def test_a_server_that_is_away_at_the_start_delays_the_barrier_only(ground):
    ground.cluster.put(dataset())
    ground.cluster.fail_next("pages", UnavailableError("down"))
    await ground.audit.complete_cache()
    assert ground.version() == "1"
