"""A disturbed run ends with the same weights, bit for bit, as an undisturbed one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness import kubectl as kube
from harness.containers import signal_pod
from harness.locations import MOUNT
from harness.object_store import bucket_directory, outage
from scenarios.after_faults import KIND, STEPS, pod_names, started, unharmed
from scenarios.stories import (
    Ground,
    bucket,
    checkpoints,
    condition,
    experiment,
    newest_checkpoint,
    rank_pods,
    running_since_checkpoint,
    wait_for,
    wait_for_condition,
    weights_digest,
)


def test_a_deleted_pod_restarts_all_ranks_from_the_last_checkpoint(
    sums: Ground, undisturbed: str
) -> None:
    victim = pod_names(started(sums, "deleted-pod"))[1]
    kube.kubectl("delete", "pod", victim, "--wait=false", namespace=sums.namespace)

    unharmed(sums, "deleted-pod", undisturbed, attempts=2, disruption=1)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_killed_by_sigkill_changes_nothing_in_the_result(
    sums: Ground, undisturbed: str, rank: int
) -> None:
    name = f"killed-{rank}"
    victim = pod_names(started(sums, name))[rank]
    assert signal_pod(sums.namespace, victim)

    unharmed(sums, name, undisturbed, attempts=2, unknown=1)


def test_damaged_checkpoints_are_reported_and_the_newest_whole_one_is_used(
    sums: Ground, undisturbed: str
) -> None:
    """The newest is cut short, the one before has a flipped bit."""
    started(sums, "damaged")
    running_since_checkpoint(sums.namespace, "damaged", sums.files, step=30)
    _suspend(sums, "damaged")
    *_, before, newest = checkpoints(sums.files, "damaged")
    _damage(before, flip=True)
    _damage(newest, flip=False)
    _patch(sums, "damaged", {"spec": {"runPolicy": {"suspend": False}}})

    body = unharmed(sums, "damaged", undisturbed, attempts=2)

    assert body["status"]["checkpoints"]["quarantined"] == 2
    for manifest in (before, newest):
        assert manifest.with_name("quarantined.json").exists()
    events = kube.kubectl("get", "events", "-o", "jsonpath={.items[*].reason}",
                          namespace=sums.namespace)  # fmt: skip
    assert "Quarantined" in events.split()


def _damage(manifest: Path, *, flip: bool) -> None:
    folder = MOUNT / manifest.parent.relative_to(bucket_directory())
    weights = next(folder.glob("trainable-*.safetensors"))
    data = bytearray(weights.read_bytes())
    if flip:
        data[len(data) // 2] ^= 1
    else:
        data = data[: len(data) // 2]
    weights.write_bytes(data)


def _patch(sums: Ground, name: str, patch: dict) -> None:
    kube.kubectl("patch", KIND, name, "--type=merge", "-p", json.dumps(patch),
                 namespace=sums.namespace)  # fmt: skip


def _suspend(sums: Ground, name: str) -> dict:
    _patch(sums, name, {"spec": {"runPolicy": {"suspend": True}}})
    return wait_for_condition(KIND, name, sums.namespace, "Suspended")


def test_a_suspended_run_frees_its_pods_and_loses_no_step(sums: Ground, undisturbed: str) -> None:
    started(sums, "paused")
    body = _suspend(sums, "paused")
    assert condition(body, "Ready")["reason"] == "Suspended"
    phases = {pod["status"]["phase"] for pod in rank_pods(sums.namespace, "paused")}
    assert phases <= {"Succeeded", "Failed"}
    stopped_at = newest_checkpoint(sums.files, "paused")
    _patch(sums, "paused", {"spec": {"runPolicy": {"suspend": False}}})

    unharmed(sums, "paused", undisturbed, attempts=2)

    first = min(
        int(path.parent.name[5:])
        for path in checkpoints(sums.files, "paused")
        if "attempt-2" in path.parts[-3]
    )
    assert first > stopped_at


def test_training_goes_on_while_the_store_is_down_and_uploads_catch_up(
    sums: Ground, undisturbed: str
) -> None:
    """The store comes back only when the status shows steps far beyond what lies in it."""
    storage = {"s3": bucket("outage", faulty=True)}
    kube.apply(experiment("cut-off", steps=STEPS, storage=storage), namespace=sums.namespace)
    files = bucket_directory() / "outage"
    running_since_checkpoint(sums.namespace, "cut-off", files)
    with outage():
        stored = newest_checkpoint(files, "cut-off")
        wait_for(
            KIND, "cut-off", sums.namespace,
            lambda body: body["status"].get("progress", {}).get("step", 0) >= stored + 50,
        )  # fmt: skip
        assert newest_checkpoint(files, "cut-off") <= stored + 10

    body = wait_for_condition(KIND, "cut-off", sums.namespace, "Complete", timeout=400)

    assert body["status"]["attempt"]["number"] == 1
    assert body["status"]["result"]["step"] == STEPS
    assert weights_digest(bucket_directory(), body) == undisturbed


def test_a_deleted_experiment_ends_gracefully_and_leaves_its_artifacts(sums: Ground) -> None:
    started(sums, "unwanted")
    before = newest_checkpoint(sums.files, "unwanted")
    kube.kubectl("delete", KIND, "unwanted", namespace=sums.namespace)

    def gone() -> bool:
        selector = "finetune.dev/experiment=unwanted"
        return not any(
            kube.fetch(kind, namespace=sums.namespace, selector=selector)["items"]
            for kind in ("jobs", "pods", "services", "configmaps")
        )

    kube.wait_until("children of the deleted experiment are gone", gone, timeout=120)
    assert newest_checkpoint(sums.files, "unwanted") >= before >= 10
