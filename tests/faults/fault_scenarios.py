"""The stories that faults are put into: what the user does, what the pods do, where it ends."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import builders
import good_ends
from faults.namespace_view import World
from faults.played_kubelet import Act, Script, Work
from finetune_api.names import DATASET, EXPERIMENT, EXPORT
from finetune_api.run_outcome import FailureClass, Outcome

Json = dict[str, Any]


def good_end(work: Work) -> Act:
    """Every pod reaches its good end."""
    if work.component == "prepare" or work.kind != EXPERIMENT:
        return Act(good_ends.GOOD_ENDS[work.kind, work.component](), step=0)
    return Act(good_ends.trained())


def a_rank_fails_first(work: Work) -> Act:
    """Rank 1 of the first attempt dies; nobody else of that attempt ends by itself."""
    if work.component != "attempt" or work.attempt > 1:
        return good_end(work)
    if work.rank != 1:
        return Act(None, step=40)
    died = Outcome(failure_class=FailureClass.UNKNOWN, rank=1, step=30, message="it fell over")
    return Act(died, step=30)


def the_first_attempt_waits(work: Work) -> Act:
    """The first attempt trains until it is stopped."""
    waits = work.component == "attempt" and work.kind == EXPERIMENT and work.attempt == 1
    return Act(None, step=40) if waits else good_end(work)


def the_first_preparation_waits(work: Work) -> Act:
    """The first preparation goes on until it is stopped."""
    waits = work.component == "prepare" and work.attempt == 1
    return Act(None, step=0) if waits else good_end(work)


async def dataset_to_ready(world: World) -> None:
    await world.create(DATASET)
    await world.until_condition(DATASET, "Ready", "True")


async def run_to_completion(world: World) -> None:
    await world.create(EXPERIMENT)
    await world.until_condition(EXPERIMENT, "Complete", "True")


async def run_before_its_dataset(world: World) -> None:
    await world.create(EXPERIMENT)
    await world.until_condition(EXPERIMENT, "DependenciesReady", "False")
    await dataset_to_ready(world)
    await world.until_condition(EXPERIMENT, "Complete", "True")


async def suspend_and_resume(world: World) -> None:
    await _until_training(world)
    await world.change(EXPERIMENT, {"spec": {"runPolicy": {"suspend": True}}})
    await world.until_condition(EXPERIMENT, "Suspended", "True")
    await world.change(EXPERIMENT, {"spec": {"runPolicy": {"suspend": False}}})
    await world.until_condition(EXPERIMENT, "Complete", "True")


async def delete_mid_run(world: World) -> None:
    await _until_training(world)
    await world.delete(EXPERIMENT)
    await world.until_no_children()


async def delete_the_namespace(world: World) -> None:
    await _until_training(world)
    await world.delete_namespace()


async def rerun_mid_run(world: World) -> None:
    await _until_training(world)
    await world.change(EXPERIMENT, {"spec": {"rerun": "again"}})
    await world.until_condition(EXPERIMENT, "Complete", "True")


async def update_mid_run(world: World) -> None:
    """The retention of children ends with the run: decided while it trains."""
    await _until_training(world)
    policy = {"ttlSecondsAfterFinished": 0, "suspend": True}
    await world.change(EXPERIMENT, {"spec": {"runPolicy": policy}})
    await world.until_condition(EXPERIMENT, "Suspended", "True")
    await world.change(EXPERIMENT, {"spec": {"runPolicy": {"suspend": False}}})
    await world.until_condition(EXPERIMENT, "Complete", "True")
    await world.until_no_children()


async def edit_while_preparing(world: World) -> None:
    await world.create(EXPERIMENT)
    await world.until_pod("prepare", 1)
    await world.change(EXPERIMENT, {"spec": {"training": {"epochs": 2}}})
    await world.until_condition(EXPERIMENT, "Complete", "True")


async def export_a_run(world: World) -> None:
    await world.create(EXPORT)
    await world.until_condition(EXPORT, "Ready", "True")


async def _until_training(world: World) -> None:
    """Wait until both pods run and their steps are in the status."""
    await world.create(EXPERIMENT)
    await world.until_pod("attempt", 1)
    await world.until(
        lambda: (world.status(EXPERIMENT).get("progress") or {}).get("step", 0) >= 40,
        "40 steps are reported",
    )


@dataclass(frozen=True)
class Scenario:
    """A story about the object `main`."""

    name: str
    main: str
    drive: Callable[[World], Awaitable[None]]
    script: Script
    given: tuple[str, ...] = (DATASET,)
    """given objects reached their end before the operator starts."""
    lasts: bool = True
    """lasts: the main object exists at the end."""
    everywhere: bool = False
    """everywhere: the operator's rights do not vanish with the namespace."""


_WAITS, _RUN = the_first_attempt_waits, EXPERIMENT
SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("dataset", DATASET, dataset_to_ready, good_end, given=()),
        Scenario("run", _RUN, run_to_completion, good_end),
        Scenario("rank-failure", _RUN, run_to_completion, a_rank_fails_first),
        Scenario("suspend-resume", _RUN, suspend_and_resume, _WAITS),
        Scenario("delete", _RUN, delete_mid_run, _WAITS, lasts=False),
        Scenario("export", EXPORT, export_a_run, good_end, given=(DATASET, EXPERIMENT)),
        Scenario("update", _RUN, update_mid_run, _WAITS),
        Scenario(
            "namespace-deletion", _RUN, delete_the_namespace, _WAITS, lasts=False, everywhere=True
        ),
        Scenario("dataset-later", _RUN, run_before_its_dataset, good_end, given=()),
        Scenario("rerun", _RUN, rerun_mid_run, _WAITS),
        Scenario("edit", _RUN, edit_while_preparing, the_first_preparation_waits),
    )
}


def given_status(kind: str) -> Json:
    """Return the status of an object whose story is over, as the API server takes it."""
    found = {DATASET: builders.ready_dataset, EXPERIMENT: builders.complete_experiment}[kind]()
    told = json.loads(found.status.model_dump_json(by_alias=True, exclude_none=True))
    for condition in told["conditions"]:
        condition["lastTransitionTime"] = "2026-05-04T12:00:00Z"
    return told
