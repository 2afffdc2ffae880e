"""A node that falls silent: a short silence costs nothing, a long one restarts all ranks."""

from __future__ import annotations

import pytest
from harness import kubectl as kube
from harness.node import start_kubelet, stop_kubelet, wait_for_node
from installation import install_operator
from scenarios.after_faults import KIND, pod_uids, ranks, started, unharmed
from scenarios.stories import ONE_CORE, Ground, running_since_checkpoint, wait_for

UNREACHABLE = {
    "key": "node.kubernetes.io/unreachable",
    "operator": "Exists",
    "effect": "NoExecute",
    "tolerationSeconds": 5,
}


def test_a_kubelet_that_was_away_for_a_while_costs_nothing(sums: Ground, undisturbed: str) -> None:
    before = pod_uids(started(sums, "unspoken"))
    stop_kubelet()
    try:
        running_since_checkpoint(sums.namespace, "unspoken", sums.files, step=60)
    finally:
        start_kubelet()
        wait_for_node()

    unharmed(sums, "unspoken", undisturbed)

    assert pod_uids(ranks(sums, "unspoken")) == before


@pytest.mark.sweep
def test_a_node_that_stays_silent_loses_its_ranks_and_the_old_ones_harm_nobody(
    sums: Ground, undisturbed: str
) -> None:
    """The containers of the first attempt train on while the second one is already recorded."""
    install_operator("settings.nodeLostSeconds=30")
    compute = {"nodes": 2, "gpusPerNode": 0, "resources": ONE_CORE, "tolerations": [UNREACHABLE]}
    started(sums, "unreachable", compute=compute)
    stop_kubelet()
    try:
        wait_for(
            KIND, "unreachable", sums.namespace,
            lambda body: body["status"]["attempt"]["number"] == 2, timeout=300,
        )  # fmt: skip
    finally:
        start_kubelet()
        wait_for_node()
        kube.wait_until("both pods of the first attempt are gone",
                        lambda: not ranks(sums, "unreachable", attempt=1), timeout=180)  # fmt: skip

    unharmed(sums, "unreachable", undisturbed, attempts=2, disruption=1)
    install_operator()
