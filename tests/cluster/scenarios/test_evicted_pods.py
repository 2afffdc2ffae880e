"""Eviction of one rank and drain of the whole node: a checkpoint is cut, no step is lost."""

from __future__ import annotations

import json

from harness import kubectl as kube
from harness.locations import NODE_NAME
from installation import keep_operator_log, operator_is_back
from scenarios.after_faults import pod_names, record_of, started, unharmed
from scenarios.stories import Ground, Manifest, checkpoints

EVERY_CHECKPOINT = {"everySteps": 10, "everySeconds": 0, "keepLast": 100, "result": "Last"}


def _evict(namespace: str, pod: str) -> None:
    """Ask for an eviction as `kubectl drain` and the cluster's own controllers do."""
    metadata = {"name": pod, "namespace": namespace}
    asked = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction"
    kube.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(asked))


def _last_saved_step(ground: Ground, name: str) -> int:
    """Return the last step of the first attempt; the second went on behind it."""
    saved: dict[str, list[int]] = {"attempt-1": [], "attempt-2": []}
    for path in checkpoints(ground.files, name):
        saved[path.parts[-3].partition(".")[0]].append(int(path.parts[-2][5:]))
    assert min(saved["attempt-2"]) > max(saved["attempt-1"]), saved
    return max(saved["attempt-1"])


def test_an_evicted_rank_costs_no_step_and_no_budget(sums: Ground, undisturbed: str) -> None:
    victim = pod_names(started(sums, "put-out", checkpoint=EVERY_CHECKPOINT))[1]
    _evict(sums.namespace, victim)

    body = unharmed(sums, "put-out", undisturbed, attempts=2, disruption=1)

    first = record_of(body, 1)
    assert (first["class"], first["outcome"]) == ("Disruption", "Disrupted")
    assert first["lastStep"] == _last_saved_step(sums, "put-out")


def test_a_drained_node_takes_operator_and_ranks_and_both_come_back(
    sums: Ground, undisturbed: str
) -> None:
    started(sums, "drained", checkpoint=EVERY_CHECKPOINT)
    keep_operator_log()
    words = ["--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=120s"]
    kube.kubectl("drain", NODE_NAME, *words, timeout=150)
    try:
        assert not _on_the_node(sums.namespace)
    finally:
        kube.kubectl("uncordon", NODE_NAME)
    operator_is_back()

    unharmed(sums, "drained", undisturbed, attempts=2, disruption=1)

    _last_saved_step(sums, "drained")


def _on_the_node(namespace: str) -> list[Manifest]:
    pods: list[Manifest] = kube.fetch("pods", namespace=namespace)["items"]
    return [pod for pod in pods if pod["spec"].get("nodeName")]
