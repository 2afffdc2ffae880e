"""A pod that reaches its memory limit: the kernel kills, the run fails once, the limit is named."""

from __future__ import annotations

from harness import kubectl as kube
from scenarios.after_faults import KIND, ranks, record_of
from scenarios.stories import Ground, condition, experiment, wait_for_condition

LIMIT = "768Mi"
"""Enough for the one process that prepares, too little for four ranks."""


def test_a_pod_killed_at_its_memory_limit_fails_the_run_and_names_the_limit(sums: Ground) -> None:
    compute = {
        "nodes": 1,
        "gpusPerNode": 0,
        "processesPerNode": 4,
        "sharedMemory": "16Mi",
        "resources": {"requests": {"cpu": "100m", "memory": LIMIT}},
    }
    kube.apply(experiment("greedy", compute=compute), namespace=sums.namespace)

    status = wait_for_condition(KIND, "greedy", sums.namespace, "Failed")

    failed = condition(status, "Failed")
    assert failed["reason"] == "OutOfHostMemory", failed
    assert "memory limit" in failed["message"], failed
    assert "784Mi" in failed["message"], failed
    assert record_of(status, 1)["class"] == "ResourcesExhausted"
    assert status["status"]["attempt"]["number"] == 1, "a repeat would reach the limit again"
    (pod,) = ranks(sums, "greedy")
    ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    assert ended["reason"] == "OOMKilled", ended
