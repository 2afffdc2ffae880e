"""What stops a run on the way, with the operator killed after any write: the end is the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

import builders
from builders import EXPERIMENT, NOW
from finetune_api.conditions import READY, SUSPENDED
from finetune_operator.observed import JobFacts, Observed
from finetune_operator.status import condition, is_final, is_stopping
from observed_runs import ALL_RUN
from played_cluster import PlayedCluster, plan_status

ENDLESS = {("attempt", 1): ALL_RUN}
"""The first attempt goes on until it is stopped."""
Moment = Callable[[Observed], bool]


@dataclass
class SilentCluster(PlayedCluster):
    """The pods of the first attempt answer that no rank has beaten for long."""

    def _advanced(self, job: JobFacts) -> JobFacts:
        later = super()._advanced(job)
        if (job.component, job.attempt) != ("attempt", 1):
            return later
        return replace(later, progress=builders.progress("Training", silent_seconds=1e4))


def at(reason: str, revision: int = 1) -> Moment:
    """Return the moment when Ready has a reason in a revision."""

    def holds(seen: Observed) -> bool:
        ready = condition(seen.object.status, READY)
        return ready is not None and (ready.reason, seen.object.status.revision) == (
            reason,
            revision,
        )

    return holds


def stopping(seen: Observed) -> bool:
    """The moment when a wish to suspend is recorded and pods may still run."""
    return is_stopping(seen.object.status)


def preparing(seen: Observed) -> bool:
    """The moment when the preparation's Job is known."""
    return seen.object.status.children.prepare_job is not None


def edited(seen: Observed, edit: dict[str, Any]) -> Observed:
    """Return the observation after a user's edit; `budget` is in GPU-hours."""
    spec = json.loads(seen.object.spec.model_dump_json(by_alias=True, exclude_none=True)) | edit
    metadata = seen.object.metadata
    found = seen.object.model_copy(
        update={
            "spec": type(seen.object.spec).model_validate_json(json.dumps(spec)),
            "metadata": metadata.model_copy(update={"generation": metadata.generation + 1}),
        }
    )
    return replace(seen, object=found)


def suspend(wish: bool) -> dict[str, Any]:
    """Return the edit that suspends, or lets go on."""
    return {"runPolicy": {"suspend": wish}}


def budget(gpu_hours: float, on_exhausted: str = "Suspend") -> dict[str, Any]:
    """Return the edit that sets a budget."""
    return {"runPolicy": {"budget": {"gpuHours": gpu_hours, "onExhausted": on_exhausted}}}


GPUS = {"compute": {"nodes": 2, "gpusPerNode": 1}}
Story = tuple[type[PlayedCluster], dict[str, Any], list[tuple[Moment, dict[str, Any]]]]
STORIES: dict[str, Story] = {
    "suspended while it runs": (
        PlayedCluster, {},
        [(at("Starting"), suspend(True)), (at("Suspended"), suspend(False))],
    ),
    "suspended and taken back while it stops": (
        PlayedCluster, {}, [(at("Starting"), suspend(True)), (stopping, suspend(False))],
    ),
    "suspended while it is prepared": (
        PlayedCluster, {}, [(preparing, suspend(True)), (at("Suspended"), suspend(False))],
    ),
    "anew while suspended": (
        PlayedCluster, {},
        [
            (at("Starting"), suspend(True)),
            (at("Suspended"), {"rerun": "2"}),
            (at("Suspended", 2), suspend(False)),
        ],
    ),
    "anew while it stops": (
        PlayedCluster, {},
        [(at("Starting"), suspend(True)), (stopping, {"rerun": "2"} | suspend(False))],
    ),
    "it hangs": (SilentCluster, {}, []),
    "its budget is spent, then raised": (
        PlayedCluster, GPUS | budget(0.01), [(at("Suspended"), budget(1))],
    ),
    "its budget is spent for good": (PlayedCluster, GPUS | budget(0.01, "Fail"), []),
}  # fmt: skip
ENDS = dict.fromkeys(STORIES, ("True", "Completed"))
ENDS["its budget is spent for good"] = ("False", "BudgetExhausted")


def played(name: str, *kills: int) -> PlayedCluster:
    """Play a story to its end."""
    kind, spec, edits = STORIES[name]
    seen = builders.observed(EXPERIMENT, builders.our_object(EXPERIMENT, **spec))
    script = {} if edits and edits[0][0] is preparing else ENDLESS
    cluster, left = kind(seen, script, frozenset(kills)), list(edits)
    for _ in range(300):
        if is_final(cluster.observed.object.status):
            break
        cluster.step()
        assert len(cluster.may_run()) <= 1
        if left and left[0][0](cluster.observed):
            cluster.observed = edited(cluster.observed, left.pop(0)[1])
        cluster.pass_time()
    assert (is_final(cluster.observed.object.status), left) == (True, [])
    assert cluster.numbers == sorted(cluster.numbers)
    return cluster


def normal(cluster: PlayedCluster) -> dict[str, Any]:
    """Return what must not depend on kills."""
    status = plan_status(cluster.observed)
    return {
        "conditions": {(c["type"], c["status"], c["reason"]) for c in status["conditions"]},
        "attempt": (status["attempt"]["number"], status["revision"]),
        "restarts": status["restarts"],
        "history": [(r["number"], r["stage"], r["outcome"]) for r in status["history"]],
        "jobs": set(cluster.applied),
    }


@pytest.mark.parametrize("name", STORIES)
def test_a_stop_on_the_way_survives_a_kill_after_any_write(name: str) -> None:
    undisturbed = played(name)
    assert builders.condition(plan_status(undisturbed.observed), READY) == ENDS[name]
    for write in range(1, undisturbed.writes + 1):
        assert normal(played(name, write, write + 1)) == normal(undisturbed)


@pytest.mark.parametrize("name", STORIES)
def test_a_stop_costs_the_retries_of_its_own_class_alone(name: str) -> None:
    restarts = plan_status(played(name).observed)["restarts"]
    spent = {counter: times for counter, times in restarts.items() if times}
    assert spent == ({"hang": 1} if name == "it hangs" else {})


def test_an_object_that_is_deleted_while_it_stops_is_written_no_more() -> None:
    seen = builders.observed(EXPERIMENT)
    cluster = PlayedCluster(seen, ENDLESS)
    for _ in range(40):
        cluster.step()
        if is_stopping(cluster.observed.object.status):
            break
        if at("Starting")(cluster.observed):
            cluster.observed = edited(cluster.observed, suspend(True))
        cluster.pass_time()
    going = builders.with_metadata(cluster.observed.object, deletion_timestamp=NOW, generation=9)
    cluster.observed = replace(cluster.observed, object=going)
    stops = condition(going.status, SUSPENDED)
    assert stops is not None
    assert stops.status == "Unknown"
    before, writes = plan_status(cluster.observed), cluster.writes
    for _ in range(8):
        cluster.step()
        cluster.pass_time()
    assert (plan_status(cluster.observed), cluster.writes) == (before, writes)
