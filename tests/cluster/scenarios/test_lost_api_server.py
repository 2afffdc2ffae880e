"""API server and etcd go away in the middle: training never notices, nothing is made twice."""

from __future__ import annotations

from harness import kubectl as kube
from harness.control_plane import start_api, stop_api
from installation import keep_operator_log, operator_is_back
from scenarios.after_faults import STEPS, pod_uids, ranks, started, unharmed
from scenarios.stories import Ground, experiment, newest_checkpoint


def _jobs(ground: Ground, name: str) -> set[str]:
    selector = f"finetune.dev/experiment={name}"
    found = kube.fetch("jobs", namespace=ground.namespace, selector=selector)["items"]
    return {job["metadata"]["name"] for job in found}


def test_a_restart_of_api_server_and_etcd_touches_no_pod_and_doubles_no_child(
    sums: Ground, undisturbed: str
) -> None:
    """One run trains meanwhile, another has just been accepted."""
    keep_operator_log()
    before = pod_uids(started(sums, "cut-off-run"))
    kube.apply(experiment("just-accepted", steps=STEPS), namespace=sums.namespace)
    reached = newest_checkpoint(sums.files, "cut-off-run")
    stop_api()
    try:
        kube.wait_until(
            "training to go on without an API server",
            lambda: newest_checkpoint(sums.files, "cut-off-run") >= reached + 30,
            timeout=120,
        )
    finally:
        start_api()
    operator_is_back()

    for name in ("cut-off-run", "just-accepted"):
        unharmed(sums, name, undisturbed)
        assert _jobs(sums, name) == {f"{name}-p1", f"{name}-a1"}
    assert pod_uids(ranks(sums, "cut-off-run")) == before
