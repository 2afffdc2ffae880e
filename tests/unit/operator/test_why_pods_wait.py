"""A pod that is on a node and cannot start: its events reach the message people read."""

from __future__ import annotations

from typing import Any

import builders
from builders import EXPERIMENT, NOW
from finetune_api.names import OWNER_UID_ANNOTATION
from finetune_operator.child_facts import project
from finetune_operator.gather import Gather
from finetune_operator.object_cache import ObjectCache
from finetune_operator.observed import ChildRef
from finetune_operator.planners import plan
from finetune_operator.planners.pods_ready import pods_ready
from unit.operator.test_gather import KEY, UID, ReadOnlyCluster, a_pod, cache_with, child, running

LONG_AGO = "2026-05-04T11:00:00Z"
TOLD = 'FailedMount: MountVolume.SetUp failed for volume "s3" : secret "s3" not found'


class ClusterWithEvents(ReadOnlyCluster):
    """Knows one Warning event, about one child."""

    def __init__(self, about: str) -> None:
        super().__init__()
        self.about = about

    async def warning_about(self, child: ChildRef) -> str:
        """Return the event of the child it is about."""
        return TOLD if child.name == self.about else ""


def waiting_pod(mounted: str) -> Any:
    """Return a pod on a node whose container is not created yet."""
    found = a_pod("p0", phase="Pending")
    found["metadata"]["annotations"] = {OWNER_UID_ANNOTATION: UID}
    found["spec"] = {"nodeName": "node-1"}
    state = {"waiting": {"reason": "ContainerCreating"}}
    found["status"] |= {
        "conditions": [{"type": "PodReadyToStartContainers", "status": mounted}],
        "containerStatuses": [{"name": "trainer", "state": state}],
    }
    return found


async def told(mounted: str) -> tuple[str, tuple[str, str]]:
    """Return the message of Ready and the condition PodsReady."""
    job = child("Job", "assistant-a1")
    job["metadata"]["creationTimestamp"] = LONG_AGO
    cache: ObjectCache = cache_with(running(), job)
    cache.store_child(project(waiting_pod(mounted)))
    cluster: Any = ClusterWithEvents(about="p0")
    seen = await Gather(cluster, cache, policy=builders.POLICY)(KEY)
    assert seen is not None
    assert (seen.key.kind, seen.now) == (EXPERIMENT, NOW)
    decided = plan(seen)
    return builders.message(decided), builders.condition(decided, "PodsReady")


async def test_a_secret_that_is_missing_is_named() -> None:
    message, condition = await told("False")
    assert message == f"attempt 1: {TOLD}"
    assert condition == ("False", "SecretNotFound")


async def test_a_pod_that_pulls_its_image_is_not_blamed_for_an_old_event() -> None:
    message, condition = await told("True")
    assert message == "attempt 1: images are pulled, ranks join"
    assert condition == ("False", "Pending")


def test_a_gang_waits_for_the_pod_that_has_no_room() -> None:
    pods = (
        builders.pod(0, "Pending", waiting=("Schedulable", "it could be assigned to node-1")),
        builders.pod(1, "Pending", waiting=("Unschedulable", "pod group is not ready")),
    )
    verdict = pods_ready(builders.job(EXPERIMENT, 1, *pods), total=2)
    assert (verdict.reason, verdict.message) == ("Unschedulable", "pod group is not ready")
