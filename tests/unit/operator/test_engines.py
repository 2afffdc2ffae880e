"""One suite for every engine: an attempt begins, ends, is disturbed and goes on in the same way."""

from __future__ import annotations

import json
from typing import Any

import pytest

import builders
import good_ends
from builders import EXPERIMENT, NAMESPACE, NOW
from finetune_api.compute_settings import Engine
from finetune_api.names import JOB_SET, POD_GROUP
from finetune_api.run_outcome import FailureClass
from finetune_operator.errors import OperatorError
from finetune_operator.gather import Gather
from finetune_operator.informers import ChildSink, ObjectSink
from finetune_operator.manifests.identity import spec_digest
from finetune_operator.object_cache import ObjectCache
from finetune_operator.observed import Manifest, Policy
from finetune_operator.reconciler import Reconciler
from finetune_operator.work_queue import Lane, WorkQueue
from played_engines import PlayedJobs, PlayedJobSets
from recording_cluster import RecordingCluster

CONTROLLERS = {Engine.JOB: PlayedJobs, Engine.JOB_SET: PlayedJobSets}
POLICY = Policy(image="trainer:test", optional_kinds=frozenset({JOB_SET, POD_GROUP}))
KEY = builders.key(EXPERIMENT)
FIRST, SECOND = "assistant-a1", "assistant-a2"
CHILD_KINDS = ("Job", JOB_SET, "Pod")


class Ground:
    """An operator that may forget everything, a cluster, and who plays the rest of it."""

    def __init__(self, engine: Engine, **spec: Any) -> None:
        self.cluster = RecordingCluster()
        self.cluster.time = NOW
        self.played = CONTROLLERS[engine](self.cluster, NAMESPACE)
        scheduling = {"engine": engine.value} | spec.pop("scheduling", {})
        self._put_experiment(spec | {"scheduling": scheduling})
        self.restart()

    def restart(self) -> None:
        """Begin with an empty memory, as a new process does."""
        self.cache, self.queue = ObjectCache(), WorkQueue()
        self.queue.open()
        gather = Gather(self.cluster, self.cache, policy=POLICY)
        self.reconciler = Reconciler(self.cluster, gather, self.cache, self.queue)
        self._objects = ObjectSink(EXPERIMENT, self.cache, self.queue)
        self._children = {k: ChildSink(k, self.cache, self.queue) for k in CHILD_KINDS}

    async def settle(self, steps: int = 6) -> Manifest:
        """Let the watch bring everything and make steps; return the status."""
        for _ in range(steps):
            self._watch()
            try:
                await self.reconciler.reconcile(KEY)
            except OperatorError:
                break
        status: Manifest = self._experiment()["status"]
        return status

    def change(self, **spec: Any) -> None:
        """Edit the spec as its user does."""
        found = self._experiment()
        self.cluster.put(found | {"spec": found["spec"] | spec})

    def applied(self, kind: str) -> list[str]:
        """Return the names of the children of a kind that exist."""
        return [name for k, _, name in self.cluster.objects if k == kind]

    def _experiment(self) -> Manifest:
        return self.cluster.objects[EXPERIMENT, NAMESPACE, KEY.name]

    def _put_experiment(self, spec: Manifest) -> None:
        found = builders.our_object(EXPERIMENT, **spec)
        status = builders.prepared()
        status["preparation"]["specDigest"] = spec_digest(found.spec)
        found = builders.our_object(EXPERIMENT, status=status, **spec)
        stored = json.loads(found.model_dump_json(by_alias=True, exclude_none=True))
        self.cluster.put({"kind": EXPERIMENT} | stored)

    def _watch(self) -> None:
        self._objects.seen(self._experiment(), lane=Lane.URGENT)
        for kind, sink in self._children.items():
            known = sink.known("")
            found = [item for (k, _, _), item in self.cluster.objects.items() if k == kind]
            seen = {sink.seen(item, lane=Lane.URGENT) for item in found}
            for identity in known - seen:
                sink.vanished(identity)


@pytest.fixture(params=Engine, ids=str)
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine in turn."""
    found: Engine = request.param
    return found


async def begun(engine: Engine, **spec: Any) -> Ground:
    """Return the ground with the pods of the first attempt running."""
    ground = Ground(engine, **spec)
    await ground.settle()
    ground.played.start(FIRST)
    ground.played.run(FIRST)
    await ground.settle(2)
    return ground


def ready(status: Manifest) -> str:
    """Return the reason of Ready."""
    return builders.condition(status, "Ready")[1]


async def test_an_attempt_begins(engine: Engine) -> None:
    ground = Ground(engine)
    assert ready(await ground.settle()) == "Queued"
    ground.played.start(FIRST)
    ground.played.run(FIRST)
    status = await ground.settle(2)
    assert ready(status) == "Starting"
    assert status["children"]["job"] == FIRST
    assert status["pods"] == {"ready": 2, "total": 2}
    assert builders.condition(status, "PodsReady") == ("True", "AsExpected")


async def test_ranks_meet_under_names_of_their_own_attempt(engine: Engine) -> None:
    ground = Ground(engine)
    status = await ground.settle()
    pod = ground.played.made_job(ground.played.child(FIRST))["spec"]["template"]
    env = {v["name"]: v.get("value") for v in pod["spec"]["containers"][0]["env"]}
    host, _, service = str(env["MASTER_ADDR"]).partition(".")
    assert host.startswith(f"{FIRST}-")
    assert len(host) <= 63
    assert service == status["children"]["service"]
    assert env["PET_MASTER_ADDR"] == env["MASTER_ADDR"]


async def test_an_attempt_completes(engine: Engine) -> None:
    ground = await begun(engine)
    ground.played.succeed(FIRST, good_ends.trained())
    status = await ground.settle()
    assert builders.condition(status, "Complete")[0] == "True"
    assert status["result"]["step"] == 90


async def test_a_rank_that_fails_ends_the_attempt_and_the_next_one_follows(engine: Engine) -> None:
    ground = await begun(engine)
    ground.played.fail(FIRST, 1, builders.outcome(FailureClass.UNKNOWN, rank=1, message="died"))
    status = await ground.settle()
    assert status["restarts"]["unknown"] == 1
    assert status["history"][-1]["rank"] == 1
    assert status["attempt"]["number"] == 2
    assert ground.played.child(SECOND)


async def test_a_named_cause_that_repeats_nothing_is_final(engine: Engine) -> None:
    ground = await begun(engine)
    told = builders.outcome(FailureClass.CONFIGURATION, message="a wrong setting")
    ground.played.fail(FIRST, 0, told)
    status = await ground.settle()
    assert builders.condition(status, "Failed") == ("True", "ConfigurationError")
    assert SECOND not in ground.applied(ground.played.kind)


@pytest.mark.parametrize("restarted", [False, True], ids=["seen", "while the operator was away"])
async def test_a_disruption_is_known_by_its_words_alone(engine: Engine, restarted: bool) -> None:
    ground = await begun(engine)
    ground.played.disrupt(FIRST)
    if restarted:
        ground.restart()
    status = await ground.settle()
    assert (status["restarts"]["disruption"], status["restarts"]["unknown"]) == (1, 0)
    assert status["attempt"]["number"] == 2


async def test_a_suspended_attempt_is_deleted_and_another_one_goes_on(engine: Engine) -> None:
    ground = await begun(engine)
    ground.change(runPolicy={"suspend": True})
    await ground.settle(3)
    assert FIRST not in ground.applied(ground.played.kind)
    for pod in ground.played.pods(FIRST):
        ground.cluster.remove(pod)
    assert ready(await ground.settle()) == "Suspended"
    ground.change(runPolicy={"suspend": False})
    status = await ground.settle()
    assert (status["attempt"]["number"], ready(status)) == (2, "Queued")


async def test_a_queue_starts_stops_and_resumes_the_same_attempt(engine: Engine) -> None:
    ground = Ground(engine, scheduling={"queueName": "research"})
    status = await ground.settle()
    child = ground.played.child(FIRST)
    assert child["spec"]["suspend"] is True
    assert child["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
    assert builders.condition(status, "QuotaReserved") == ("False", "WaitingForQuota")
    ground.played.admit(FIRST, suspend=False)
    ground.played.run(FIRST)
    assert ready(await ground.settle(2)) == "Starting"
    ground.played.admit(FIRST, suspend=True)
    status = await ground.settle()
    assert (ready(status), status["restarts"]["disruption"]) == ("Queued", 1)
    ground.played.admit(FIRST, suspend=False)
    ground.played.run(FIRST)
    status = await ground.settle(2)
    assert (ready(status), status["attempt"]["number"]) == ("Starting", 1)


async def test_an_attempt_that_vanishes_is_followed_by_another(engine: Engine) -> None:
    ground = await begun(engine)
    ground.played.vanish(FIRST)
    status = await ground.settle()
    assert status["restarts"]["disruption"] == 1
    assert status["attempt"]["number"] == 2


async def test_a_name_that_is_taken_is_never_taken_over(engine: Engine) -> None:
    ground = Ground(engine)
    stranger = {"kind": ground.played.kind, "metadata": {"name": FIRST, "namespace": NAMESPACE}}
    ground.cluster.put(stranger)
    status = await ground.settle()
    assert builders.condition(status, "Stalled") == ("True", "NameTaken")
    assert builders.message(status, "Ready").startswith(f"{ground.played.kind} {FIRST}: ")
    assert ground.applied("ConfigMap") == []


async def test_events_are_asked_for_where_pods_are_made(engine: Engine) -> None:
    ground = Ground(engine)
    await ground.settle()
    maker = ground.played.made_job(ground.played.child(FIRST))["metadata"]["uid"]
    ground.cluster.warnings[maker] = "FailedCreate: pods are forbidden"
    ground.played.child(FIRST)["metadata"]["creationTimestamp"] = "2026-05-04T11:00:00Z"
    assert "pods are forbidden" in builders.message(await ground.settle(), "PodsReady")


MISSING: dict[str, tuple[dict[str, str], str]] = {
    "a kind": ({"engine": "JobSet"}, "this cluster serves no JobSets; install JobSet"),
    "a scheduler": ({"gang": "Volcano"}, "this cluster serves no PodGroups; install Volcano"),
}


@pytest.mark.parametrize("what", MISSING)
async def test_what_the_cluster_does_not_serve_stalls_before_any_child(what: str) -> None:
    scheduling, words = MISSING[what]
    ground = Ground(Engine.JOB, scheduling=scheduling)
    ground.cluster.unserved |= {JOB_SET, POD_GROUP}
    status = await ground.settle()
    assert builders.condition(status, "Stalled") == ("True", "NotAvailable")
    assert words in builders.message(status, "Ready")
    assert [kind for kind, _, _ in ground.cluster.objects] == [EXPERIMENT]
    assert status["attempt"]["number"] == 0
    ground.cluster.unserved.clear()
    assert (await ground.settle())["attempt"]["number"] == 1
