"""Progress: rank 0 is asked, its answer is not trusted, and only news wakes a key."""

from __future__ import annotations

import json

import pytest

from finetune_api.names import OWNER_LABELS
from finetune_api.run_progress import Progress
from finetune_operator.child_facts import INDEX_ANNOTATION
from finetune_operator.errors import UnavailableError
from finetune_operator.object_cache import ObjectCache
from finetune_operator.observed import Key
from finetune_operator.progress_pull import ProgressPull
from finetune_operator.status_writes import StatusWrites
from finetune_operator.work_queue import WorkQueue
from recording_cluster import RecordingCluster

RUN = Key("FineTuneExperiment", "ml", "run")
JOB_UID = "job-uid"


def pod(index: int, *, phase: str = "Running", ip: str = "10.0.0.9") -> dict:
    return {
        "kind": "Pod",
        "metadata": {
            "name": f"rank-{index}",
            "namespace": "ml",
            "uid": f"pod-{index}",
            "labels": {OWNER_LABELS["FineTuneExperiment"]: "run"},
            "annotations": {INDEX_ANNOTATION: str(index)},
            "ownerReferences": [{"uid": JOB_UID, "controller": True}],
        },
        "status": {"phase": phase, "podIP": ip},
    }


def answer(run: str = "u1/1", **told: object) -> bytes:
    return json.dumps({"version": 1, "run": run, "phase": "Training", **told}).encode()


class Ground:
    def __init__(self, *pods: dict) -> None:
        self.cluster, self.cache, self.queue = RecordingCluster(), ObjectCache(), WorkQueue()
        self.cache.store(RUN, {"metadata": {"uid": "u1", "resourceVersion": "1"}})
        for item in pods:
            self.cache.store_child(item)
        self.pull = ProgressPull(
            self.cluster, self.cache, self.queue, active=lambda: {RUN}, writes=StatusWrites()
        )

    async def told(self, raw: bytes) -> Progress | None:
        self.cluster.answers["rank-0"] = raw
        await self.pull.pull(RUN)
        return self.cache.progress("pod-0")


async def test_rank_zero_is_asked_and_its_answer_wakes_the_key():
    ground = Ground(pod(0), pod(1))
    told = await ground.told(answer(step=7))
    assert told is not None
    assert (told.step, ground.queue.depth()) == (7, 1)


async def test_an_answer_without_news_wakes_nobody():
    ground = Ground(pod(0))
    await ground.told(answer(step=7))
    ground.queue.open()
    ground.queue.finished(await ground.queue.take())
    await ground.told(answer(step=7))
    assert ground.queue.depth() == 0


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(answer("another-uid/1"), id="speaks of another object"),
        pytest.param(b"<html>", id="not JSON"),
        pytest.param(answer(loss="low"), id="wrong type"),
        pytest.param(answer(surprise=1), id="unknown field"),
        pytest.param(answer().replace(b'"Training"', b'"Training", "loss": NaN'), id="not finite"),
    ],
)
async def test_an_answer_that_cannot_be_believed_is_thrown_away(raw):
    assert await Ground(pod(0)).told(raw) is None


async def test_a_silent_pod_is_no_error():
    ground = Ground(pod(0))
    ground.cluster.fail_next("fetch_progress", UnavailableError("no answer"))
    assert await ground.told(answer()) is None


@pytest.mark.parametrize(
    "item",
    [pod(0, phase="Pending"), pod(0, phase="Failed"), pod(0, ip=""), pod(1)],
    ids=["pending", "ended", "without address", "another rank"],
)
async def test_pods_that_cannot_speak_for_the_run_are_not_asked(item):
    ground = Ground(item)
    await ground.pull.pull(RUN)  # no answer is prepared: asking would fail
    assert ground.cache.progress(item["metadata"]["uid"]) is None
