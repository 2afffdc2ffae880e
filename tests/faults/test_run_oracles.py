"""The oracles of conditions, store and writes bite; two faults of a plan strike in their order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from harness.fault_proxy import Call, CutError, Noted, Reply

from faults import write_counts
from faults.condition_history import ConditionHistory
from faults.fault_modes import fault_of
from faults.fault_plan import Plan, pair, plan_of
from faults.plan_choice import pairs_of
from faults.played_store import PlayedStore, store_is_what_is_told
from finetune_api.conditions import CONDITION_TYPES
from finetune_api.names import EXPERIMENT, storage_prefix

Json = dict[str, Any]
TIME, LATER = "2026-05-04T12:00:00Z", "2026-05-04T12:00:01Z"
UNDER_WAY = {"Reconciling": "True"}
FINISHED = {"Ready": "True", "Complete": "True"}


def version(said: dict[str, str], *, time: str = TIME, seen: int = 1, revision: int = 1) -> Json:
    conditions = [
        {"type": name, "status": said.get(name, "False"), "lastTransitionTime": time,
         "observedGeneration": seen}
        for name in CONDITION_TYPES[EXPERIMENT]
    ]  # fmt: skip
    status = {"fence": 1, "revision": revision, "observedGeneration": seen}
    return {"kind": EXPERIMENT, "metadata": {"uid": "u", "generation": 1},
            "status": status | {"conditions": conditions}}  # fmt: skip


def judged(*versions: Json) -> list[str]:
    history = ConditionHistory()
    for one in versions:
        history.seen(one)
    return history.broken


def without_ready(found: Json) -> Json:
    return found | {"status": found["status"] | {"conditions": found["status"]["conditions"][1:]}}


@pytest.mark.parametrize("said", [UNDER_WAY, FINISHED, {"Stalled": "True", "Failed": "True"}])
def test_conditions_that_agree_are_fine(said: dict[str, str]) -> None:
    assert judged(version(said), version(said)) == []


@pytest.mark.parametrize(
    ("versions", "words"),
    [
        ([version({"Ready": "True", "Reconciling": "True"})], "contradict"),
        ([version({"Failed": "True"})], "contradict"),
        ([version({})], "contradict"),
        ([without_ready(version(UNDER_WAY))], "its conditions are"),
        ([version(UNDER_WAY, seen=2)], "observed generation 2 of 1"),
        ([version(UNDER_WAY, time=LATER), version(UNDER_WAY)], "before it did last"),
        ([version(UNDER_WAY), version(UNDER_WAY, time=LATER)], "says that it changed"),
        ([version(FINISHED), version(UNDER_WAY, time=LATER)], "turned back within revision 1"),
        ([version(UNDER_WAY, seen=1), version(UNDER_WAY, seen=0)], "went back to generation 0"),
    ],
)
def test_conditions_that_contradict_themselves_are_found(versions: list[Json], words: str) -> None:
    assert any(words in sentence for sentence in judged(*versions))


def test_a_new_revision_may_take_back_that_it_is_complete() -> None:
    found = judged(version(FINISHED), version(UNDER_WAY, time=LATER, revision=2))
    assert not any("turned back" in sentence for sentence in found)


PREFIX = storage_prefix(EXPERIMENT, "lab", "run", "u")


def config(attempt: int = 1, **changes: Any) -> Json:
    claim = {"claimName": "artifacts", "path": "ml"}
    identity = {"attempt": attempt, "revision": 1}
    return {"identity": identity, "prefix": PREFIX, "preparedRevision": 1,
            "location": {"volumeClaim": claim}, **changes}  # fmt: skip


def told(**status: Any) -> Json:
    metadata = {"namespace": "lab", "name": "run", "uid": "u"}
    return {"kind": EXPERIMENT, "metadata": metadata, "status": {"revision": 1, **status}}


def finished(store: PlayedStore) -> Json:
    """Write what a run writes and return its status."""
    left = store.results(config(), {"artifacts": [{"kind": "prepared"}]})
    store.checkpoint(config(), 20)
    latest = store.checkpoint(config(attempt=2), 40)
    return told(artifacts=left["artifacts"], checkpoints={"latest": latest}, result=latest)


def test_a_status_that_tells_what_is_stored_is_fine() -> None:
    store = PlayedStore()
    run = finished(store)
    assert (store_is_what_is_told(store, [run], ()), store.broken) == ([], [])
    assert store.newest(config())["step"] == 40


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda status: status | {"artifacts": []}, "in the store and not told"),
        (lambda status: status | {"checkpoints": {}}, "told is None"),
        (
            lambda status: status | {"result": status["result"] | {"digest": "sha256:0"}},
            "told and not in the store",
        ),
    ],
)
def test_a_status_that_differs_from_the_store_is_found(
    change: Callable[[Json], Json], words: str
) -> None:
    store = PlayedStore()
    run = finished(store)
    run["status"] = change(run["status"])
    assert any(words in sentence for sentence in store_is_what_is_told(store, [run], ()))


def test_a_step_that_is_computed_twice_and_an_unknown_checkpoint_are_found() -> None:
    store = PlayedStore()
    finished(store)
    store.checkpoint(config(attempt=3), 40)
    store.newest(config(knownCheckpoints=[{"uri": "pvc://else", "digest": "sha256:0"}]))
    assert store.broken == [
        "step 40 of revision 1 is computed twice",
        "pvc://else is known and not in the store",
    ]


JOB = Noted(Call("patch", "jobs", "run-a1"), 201, changed=True)
STATUS = Noted(Call("patch", "finetuneexperiments/status", "run"), 200, changed=True)
STAGE = Noted(Call("create", "events", "Training"), 201, changed=True)


def test_an_undisturbed_run_makes_exactly_its_writes_and_a_disturbed_one_a_few_more() -> None:
    budget = write_counts.budget_of([JOB, STATUS])
    assert write_counts.over_budget(budget, [JOB, STATUS, STATUS, STAGE], 0) == []
    assert write_counts.over_budget(budget, [JOB, JOB, STATUS], 0) == ["2 writes of jobs, not 1"]
    assert write_counts.over_budget(budget, [STATUS], 0) == ["0 writes of jobs, not 1"]
    assert write_counts.over_budget(budget, [JOB, JOB], 1) == []
    assert len(write_counts.over_budget(budget, [JOB, JOB, JOB], 1)) == 1
    assert len(write_counts.over_budget(budget, [JOB, *[STATUS] * 10], 0)) == 1


CALL = {"verb": "patch", "resource": "jobs", "name": "a", "detail": "", "nth": 1}
CUT = Plan("run", "cut", {"call": CALL, "moment": "applied"})
REFUSED = Plan("run", "errors", {"verb": "patch", "resource": "jobs", "error": "503", "times": 1})


async def nothing() -> None:
    return None


async def forward() -> Reply:
    return Reply(200, b"{}")


async def test_the_second_fault_waits_for_the_first() -> None:
    plan = plan_of(pair(CUT, REFUSED).line())
    assert [part.mode for part in plan.parts()] == ["cut", "errors"]
    fault = fault_of(plan, kill=nothing, delete=nothing)
    assert fault is not None
    other, meant = Call("patch", "jobs", "b"), Call(**CALL)
    assert (await fault.around(other, forward)).status == 200
    with pytest.raises(CutError):
        await fault.around(meant, forward)
    assert not fault.struck
    assert (await fault.around(other, forward)).status == 503
    assert fault.struck
    assert (await fault.around(meant, forward)).status == 200


def test_pairs_are_drawn_by_their_seed_from_one_story_each() -> None:
    plans = [CUT, REFUSED, Plan("export", "delete", {"call": CALL}), Plan("export", "gap")]
    drawn = pairs_of(plans, 30, seed=1)
    assert drawn == pairs_of(plans, 30, seed=1) != pairs_of(plans, 30, seed=2)
    assert {part.mode for plan in drawn for part in plan.parts()[1:]} == {"cut", "errors", "delete"}
    assert all(part.scenario == plan.scenario for plan in drawn for part in plan.parts())
