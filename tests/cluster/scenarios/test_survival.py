"""A disturbed run ends with the same weights, bit for bit, as an undisturbed one."""

from __future__ import annotations

import json

import pytest
from harness import kubectl as kube
from harness.containers import signal_pod
from harness.object_store import bucket_directory, outage_for
from installation import NAMESPACE, operator_pod
from scenarios.stories import (
    Ground,
    bucket,
    checkpoints,
    condition,
    experiment,
    newest_checkpoint,
    rank_pods,
    running_since_checkpoint,
    wait_for_condition,
    weights_digest,
)

STEPS = 300


@pytest.fixture(scope="module")
def undisturbed(sums: Ground) -> str:
    """The digest of the weights of a run that nothing happened to."""
    kube.apply(experiment("calm", steps=STEPS), namespace=sums.namespace)
    body = wait_for_condition("finetuneexperiment", "calm", sums.namespace, "Complete")
    assert body["status"]["attempt"]["number"] == 1
    return weights_digest(sums.files, body)


def _started(sums: Ground, name: str, **spec: object) -> None:
    kube.apply(experiment(name, steps=STEPS, **spec), namespace=sums.namespace)
    running_since_checkpoint(sums.namespace, name, sums.files)


def _finished(sums: Ground, name: str) -> dict:
    return wait_for_condition("finetuneexperiment", name, sums.namespace, "Complete", timeout=400)


def test_a_deleted_pod_restarts_all_ranks_from_the_last_checkpoint(
    sums: Ground, undisturbed: str
) -> None:
    _started(sums, "evicted")
    victim = rank_pods(sums.namespace, "evicted")[1]["metadata"]["name"]
    kube.kubectl("delete", "pod", victim, "--wait=false", namespace=sums.namespace)

    body = _finished(sums, "evicted")

    assert weights_digest(sums.files, body) == undisturbed
    assert body["status"]["attempt"]["number"] == 2
    assert body["status"]["restarts"]["disruption"] == 1
    assert body["status"]["restarts"]["unknown"] == 0


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_killed_by_sigkill_changes_nothing_in_the_result(
    sums: Ground, undisturbed: str, rank: int
) -> None:
    name = f"killed-{rank}"
    _started(sums, name)
    victim = rank_pods(sums.namespace, name)[rank]["metadata"]["name"]
    assert signal_pod(sums.namespace, victim)

    body = _finished(sums, name)

    assert weights_digest(sums.files, body) == undisturbed
    assert body["status"]["attempt"]["number"] == 2


def test_an_operator_killed_twice_starts_nothing_twice(sums: Ground, undisturbed: str) -> None:
    kube.apply(experiment("orphaned", steps=STEPS), namespace=sums.namespace)
    signal_pod(NAMESPACE, operator_pod())
    running_since_checkpoint(sums.namespace, "orphaned", sums.files)
    signal_pod(NAMESPACE, operator_pod())

    body = _finished(sums, "orphaned")

    assert weights_digest(sums.files, body) == undisturbed
    assert body["status"]["attempt"]["number"] == 1
    jobs = kube.fetch(
        "jobs", namespace=sums.namespace, selector="finetune.dev/experiment=orphaned"
    )["items"]
    assert sorted(job["metadata"]["name"] for job in jobs) == ["orphaned-a1", "orphaned-p1"]


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_is_used(
    sums: Ground, undisturbed: str, damage: str
) -> None:
    name = f"damaged-{damage}"
    _started(sums, name)
    running_since_checkpoint(sums.namespace, name, sums.files, step=30)
    suspended = {"spec": {"runPolicy": {"suspend": True}}}
    _patch(sums, name, suspended)
    wait_for_condition("finetuneexperiment", name, sums.namespace, "Suspended")
    newest = max(checkpoints(sums.files, name), key=lambda path: int(path.parent.name[5:]))
    weights = next(newest.parent.glob("trainable-*.safetensors"))
    data = bytearray(weights.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    else:
        data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    _patch(sums, name, {"spec": {"runPolicy": {"suspend": False}}})

    body = _finished(sums, name)

    assert weights_digest(sums.files, body) == undisturbed
    assert body["status"]["checkpoints"]["quarantined"] == 1
    assert newest.with_name("quarantined.json").exists()
    events = kube.kubectl("get", "events", "-o", "jsonpath={.items[*].reason}",
                          namespace=sums.namespace)  # fmt: skip
    assert "Quarantined" in events.split()


def _patch(sums: Ground, name: str, patch: dict) -> None:
    kube.kubectl("patch", "finetuneexperiment", name, "--type=merge", "-p", json.dumps(patch),
                 namespace=sums.namespace)  # fmt: skip


def test_a_suspended_run_frees_its_pods_and_loses_no_step(sums: Ground, undisturbed: str) -> None:
    _started(sums, "paused")
    _patch(sums, "paused", {"spec": {"runPolicy": {"suspend": True}}})
    body = wait_for_condition("finetuneexperiment", "paused", sums.namespace, "Suspended")
    assert condition(body, "Ready")["reason"] == "Suspended"
    phases = {pod["status"]["phase"] for pod in rank_pods(sums.namespace, "paused")}
    assert phases <= {"Succeeded", "Failed"}
    stopped_at = newest_checkpoint(sums.files, "paused")
    _patch(sums, "paused", {"spec": {"runPolicy": {"suspend": False}}})

    body = _finished(sums, "paused")

    assert weights_digest(sums.files, body) == undisturbed
    assert body["status"]["restarts"] == dict.fromkeys(body["status"]["restarts"], 0)
    first = min(
        int(path.parent.name[5:])
        for path in checkpoints(sums.files, "paused")
        if "attempt-2" in path.parts[-3]
    )
    assert first > stopped_at


def test_training_goes_on_while_the_store_is_down_and_uploads_catch_up(
    sums: Ground, undisturbed: str
) -> None:
    storage = {"s3": bucket("outage", faulty=True)}
    kube.apply(experiment("cut-off", steps=STEPS, storage=storage), namespace=sums.namespace)
    running_since_checkpoint(sums.namespace, "cut-off", bucket_directory() / "outage")
    outage_for(30).join()

    body = _finished(sums, "cut-off")

    assert body["status"]["attempt"]["number"] == 1
    assert body["status"]["result"]["step"] == STEPS
    assert weights_digest(bucket_directory(), body) == undisturbed


def test_a_deleted_experiment_ends_gracefully_and_leaves_its_artifacts(sums: Ground) -> None:
    _started(sums, "unwanted")
    before = newest_checkpoint(sums.files, "unwanted")
    kube.kubectl("delete", "finetuneexperiment", "unwanted", namespace=sums.namespace)

    def gone() -> bool:
        selector = "finetune.dev/experiment=unwanted"
        return not any(
            kube.fetch(kind, namespace=sums.namespace, selector=selector)["items"]
            for kind in ("jobs", "pods", "services", "configmaps")
        )

    kube.wait_until("children of the deleted experiment are gone", gone, timeout=120)
    assert newest_checkpoint(sums.files, "unwanted") >= before >= 10
