"""One step: children before status, status once and only if new, every error at its own pace."""

from __future__ import annotations

import asyncio
import json

import pytest

from finetune_api.dataset import Dataset
from finetune_operator import errors, reconciler
from finetune_operator.cluster.resources import OURS
from finetune_operator.informers import ObjectSink
from finetune_operator.object_cache import ObjectCache
from finetune_operator.observed import ChildRef, Event, Key, Observed, Plan, Policy
from finetune_operator.reconciler import Reconciler
from finetune_operator.work_queue import Lane, WorkQueue
from recording_cluster import RecordingCluster

FAQ = Key("Dataset", "ml", "faq")
OTHER = Key("Dataset", "ml", "other")
STORAGE = {"volumeClaim": {"claimName": "results"}}


def dataset(**status: object) -> dict:
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "Dataset",
        "metadata": {"name": "faq", "namespace": "ml", "uid": "u1"},
        "spec": {
            "storage": STORAGE,
            "sources": [{"name": "a", "inline": {"data": "[]"}}],
        },
        "status": status,
    }


def job() -> dict:
    owner = {"kind": "Dataset", "name": "faq", "uid": "u1", "controller": True}
    metadata = {"name": "faq-d1", "namespace": "ml", "ownerReferences": [owner]}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata}


def told(reason: str) -> dict:
    return {"conditions": [{"type": "Ready", "status": "False", "reason": reason}]}


class Ground:
    """A cluster with one Dataset, and a reconciler that answers every look with `answer`."""

    def __init__(self, monkeypatch) -> None:
        self.cluster, self.cache, self.queue = RecordingCluster(), ObjectCache(), WorkQueue()
        self.queue.open()
        self.sink = ObjectSink("Dataset", self.cache, self.queue)
        self.reconciler = Reconciler(self.cluster, self._gather, self.cache, self.queue)
        self.answer = Plan(status=told("Preparing"))
        self.looks = 0
        monkeypatch.setattr(reconciler, "plan", self._plan)
        monkeypatch.setattr(reconciler, "stalled", lambda _o, reason, _m: Plan(status=told(reason)))
        self.see(dataset())

    def see(self, manifest: dict) -> None:
        self.sink.seen(self.cluster.put(manifest), lane=Lane.URGENT)

    def refresh(self) -> None:
        """Let the watch bring what the server holds."""
        self.sink.seen(self.cluster.objects["Dataset", "ml", "faq"], lane=Lane.URGENT)

    async def _gather(self, key: Key, *, absent: str = "") -> Observed | None:
        text = self.cache.text(key)
        if text is None:
            return None
        whole = Dataset.model_validate_json(text)
        return Observed(key=key, object=whole, now=self.cluster.now(), policy=Policy(image="x"))

    def _plan(self, _observed: Observed) -> Plan:
        self.looks += 1
        return self.answer

    def stored_reason(self) -> str | None:
        status = self.cluster.objects[OURS["Dataset"].kind, "ml", "faq"].get("status") or {}
        return next((c["reason"] for c in status.get("conditions", ())), None)

    async def work(self, seconds: float = 0.05) -> None:
        worker = asyncio.create_task(self.reconciler.work())
        done, _ = await asyncio.wait([worker], timeout=seconds)
        worker.cancel()
        if done:
            worker.result()


@pytest.fixture
def ground(monkeypatch) -> Ground:
    return Ground(monkeypatch)


async def test_children_are_made_before_the_status_tells_of_them(ground):
    ground.answer = Plan(status=told("Fetching"), apply=(job(),))
    await ground.reconciler.reconcile(FAQ)
    assert ground.cluster.writes == [("create", "faq-d1"), ("status", "faq")]


async def test_deletes_go_before_the_status_and_after_the_applies(ground):
    ref = ChildRef("batch/v1", "Job", "ml", "faq-d0", "u9", "1")
    ground.answer = Plan(status=told("Fetching"), apply=(job(),), delete=(ref,))
    await ground.reconciler.reconcile(FAQ)
    assert [verb for verb, _ in ground.cluster.writes] == ["create", "delete", "status"]


async def test_planning_what_is_stored_writes_nothing(ground):
    ground.see(dataset(**told("Preparing")))
    await ground.reconciler.reconcile(FAQ)
    assert ground.cluster.writes == []


async def test_events_are_posted_only_after_the_status_was_written(ground):
    ground.answer = Plan(status=told("Fetching"), events=(Event("Normal", "Fetching", "reads"),))
    ground.cluster.fail_next("write_status", errors.UnavailableError("down"))
    await ground.work()
    assert ground.cluster.events == []
    ground.queue.add(FAQ)
    await ground.work()
    assert [event["reason"] for event in ground.cluster.events] == ["Fetching"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        pytest.param(errors.RefusedError("403 quota"), "RefusedByServer", id="quota or policy"),
        pytest.param(errors.MalformedError("400"), "InternalError", id="a bug of ours"),
    ],
)
async def test_a_refused_child_is_told_in_the_status_and_tried_again(ground, error, reason):
    ground.answer = Plan(status=told("Fetching"), apply=(job(),))
    ground.cluster.fail_next("create", error)
    await ground.work()
    assert ground.stored_reason() == reason
    assert ground.queue._heap  # a repetition is due


async def test_a_taken_name_is_told_in_the_status_and_nothing_is_adopted(ground):
    taken = job()
    taken["metadata"]["ownerReferences"] = []
    ground.cluster.put(taken)
    ground.answer = Plan(status=told("Fetching"), apply=(job(),))
    await ground.work()
    assert (ground.stored_reason(), ground.cluster.writes) == ("NameTaken", [("status", "faq")])


async def test_a_conflict_is_planned_again_on_the_live_object(ground):
    ground.cluster.put({**dataset(), "metadata": {**dataset()["metadata"], "labels": {}}})
    await ground.work()
    assert ground.stored_reason() == "Preparing"
    assert ground.looks == 3  # on the old object, on the live one, on what was written then
    live = ground.cluster.objects["Dataset", "ml", "faq"]["metadata"]
    assert ground.cache.version(FAQ) == (live["uid"], live["resourceVersion"])


async def test_what_was_written_is_known_at_once_and_its_echo_is_no_news(ground):
    await ground.work()
    looks = ground.looks
    ground.refresh()
    await ground.work()
    assert (ground.looks, ground.cluster.writes) == (looks, [("status", "faq")])


async def test_who_waits_for_an_object_hears_of_what_was_written(ground):
    waiter = Key("FineTuneExperiment", "ml", "run")
    ground.cache.set_references(waiter, (FAQ,))
    await ground.reconciler.reconcile(FAQ)
    assert ground.queue._ready.keys() == {FAQ, waiter}


@pytest.mark.parametrize(
    "error",
    [errors.AbsentError("404"), errors.NamespaceEndingError("403")],
    ids=["object gone", "namespace ends"],
)
async def test_the_end_of_an_object_is_no_error_that_is_repeated(ground, error):
    ground.cluster.fail_next("write_status", error)
    ground.cluster.remove(dataset())
    await ground.work()
    assert ground.queue._heap == []


async def test_an_object_that_is_only_said_to_be_absent_is_planned_again(ground):
    ground.cluster.fail_next("write_status", errors.AbsentError("404"))
    ground.cluster.put(dataset())
    await ground.work()
    assert ground.queue._heap != []


async def test_a_bug_in_a_step_stops_neither_the_worker_nor_other_keys(ground, monkeypatch):
    def fail(observed: Observed) -> Plan:
        if observed.key == FAQ:
            raise RuntimeError("a bug")
        return Plan(status=told("Preparing"))

    monkeypatch.setattr(reconciler, "plan", fail)
    other = dataset()
    other["metadata"] = {"name": "other", "namespace": "ml", "uid": "u2"}
    ground.see(other)
    await ground.work()
    assert ground.cluster.writes == [("status", "other")]


async def test_rejected_credentials_end_the_worker(ground):
    ground.cluster.fail_next("write_status", errors.CredentialsError("401"))
    with pytest.raises(errors.CredentialsError):
        await ground.work(1)


async def test_a_step_that_hangs_is_ended_and_repeated(ground, monkeypatch):
    monkeypatch.setattr(reconciler, "STEP_SECONDS", 0.01)

    async def hang(_key: Key) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(ground.reconciler, "_gather", hang)
    await ground.work()
    assert [key for _, key in ground.queue._heap] == [FAQ]


async def test_who_waits_for_what_follows_the_plan(ground):
    ground.answer = Plan(status=told("Preparing"), waits_for=(OTHER,))
    await ground.reconciler.reconcile(FAQ)
    assert ground.cache.waiters(OTHER) == {FAQ}
    ground.refresh()
    ground.answer = Plan(status=told("Fetching"))
    await ground.reconciler.reconcile(FAQ)
    assert ground.cache.waiters(OTHER) == frozenset()


async def test_only_objects_whose_plan_says_so_are_asked_for_progress(ground):
    ground.answer = Plan(status=told("Fetching"), pull_progress=True)
    await ground.reconciler.reconcile(FAQ)
    assert ground.reconciler.active == {FAQ}
    ground.cache.forget(FAQ)
    await ground.reconciler.reconcile(FAQ)
    assert ground.reconciler.active == set()


async def test_what_is_due_by_the_clock_is_planned_again(ground):
    ground.answer = Plan(status=told("Queued"), requeue_seconds=0.01)
    await ground.work(0.5)
    assert ground.looks > 1


async def test_what_was_deleted_is_looked_at_again(ground, monkeypatch):
    """A server may say that a child is absent and leave it: then no event ever comes."""
    monkeypatch.setattr("finetune_operator.reconciler.DELETE_LOOK_SECONDS", 0.01)
    ref = ChildRef("batch/v1", "Job", "ml", "faq-d0", "u9", "1")
    ground.answer = Plan(status=told("Fetching"), delete=(ref,))
    await ground.work(0.5)
    assert [verb for verb, _ in ground.cluster.writes].count("delete") > 2


async def test_the_status_goes_to_the_version_that_was_observed(ground):
    """A cache that is behind must not set a counter back."""
    ground.cluster.put(dataset(attempt={"number": 3}))
    with pytest.raises(errors.ConflictError):
        await ground.reconciler.reconcile(FAQ)
    stored = ground.cluster.objects["Dataset", "ml", "faq"]
    assert json.dumps(stored["status"]) == '{"attempt": {"number": 3}}'


async def test_what_appears_while_it_is_being_missed_is_not_slept_through(ground):
    """The reference index cannot wake a key that is not in it yet."""
    missing = dataset()
    missing["metadata"] = {"name": "other", "namespace": "ml", "uid": "u2"}
    ground.answer = Plan(status=told("Preparing"), waits_for=(OTHER,))
    ground.cache.store(OTHER, ground.cluster.put(missing))  # after gather looked, before the plan
    ground.queue.finished(await ground.queue.take())
    await ground.reconciler.reconcile(FAQ)
    assert ground.queue.depth() == 1


async def test_events_wait_for_the_children_of_the_next_step(ground, monkeypatch):
    """What people wait for is the Job; the event that tells of it comes when it is there."""
    begun = Plan(status=told("Preparing"), events=(Event("Normal", "Preparing", "begins"),))
    plans = [begun, Plan(status=told("Preparing"), apply=(job(),))]
    monkeypatch.setattr(reconciler, "plan", lambda _: plans.pop(0))
    made = []

    async def post(event: dict) -> None:
        made.extend([event["reason"], *ground.cluster.writes])

    monkeypatch.setattr(ground.cluster, "post_event", post)
    await ground.work()
    assert made == ["Preparing", ("status", "faq"), ("create", "faq-d1")]
