"""The operator is killed after any write; the end is the same, and no two attempts ever run."""

from __future__ import annotations

import random
from typing import Any

import pytest

import builders
import good_ends
from builders import DATASET, EXPERIMENT, EXPORT, ended_pod
from finetune_api.run_outcome import FailureClass
from finetune_operator.status import is_final
from played_cluster import PlayedCluster, Script, plan_status

CRASH = (builders.pod(0), ended_pod(1, FailureClass.UNKNOWN))
PEERS = (ended_pod(0, FailureClass.PEER_LOST), ended_pod(1, FailureClass.PEER_LOST))
BROKEN_DATA = good_ends.checked_dataset("Data", reason="MissingColumn", severity="Error", count=3)
SCENARIOS: dict[str, tuple[str, Script]] = {
    "a Dataset becomes ready": (DATASET, {}),
    "a Dataset is broken": (
        DATASET,
        {("attempt", 1): (ended_pod(0, FailureClass.DATA, outcome=BROKEN_DATA),)},
    ),
    "an experiment runs to completion": (EXPERIMENT, {}),
    "ranks die twice": (EXPERIMENT, {("attempt", 1): CRASH, ("attempt", 2): PEERS}),
    "the preparation is tried again": (
        EXPERIMENT,
        {("prepare", 1): (ended_pod(0, FailureClass.EXTERNAL_SERVICE),)},
    ),
    "the model is not found": (EXPERIMENT, {("prepare", 1): (ended_pod(0, FailureClass.ACCESS),)}),
    "ranks die for ever": (EXPERIMENT, {("attempt", n): CRASH for n in range(1, 9)}),
    "an export is published": (EXPORT, {}),
}


def played(
    kind: str, script: Script, *, seed: int = 0, kills: tuple[int, ...] = ()
) -> PlayedCluster:
    """Run to the end; the seed decides how often anybody gets a turn."""
    cluster = PlayedCluster(builders.observed(kind), script, frozenset(kills))
    turns = random.Random(seed)
    for _ in range(800):
        if is_final(cluster.observed.object.status):
            break
        for _ in range(turns.choice([0, 1, 1, 2])) if seed else (0,):
            cluster.step()
            running = cluster.may_run()
            assert len(running) <= 1, f"{running} may run at once"
        for _ in range(turns.choice([0, 1, 1, 2])) if seed else (0,):
            cluster.pass_time()
    assert is_final(cluster.observed.object.status)
    assert cluster.numbers == sorted(cluster.numbers)
    return cluster


def normal(cluster: PlayedCluster) -> dict[str, Any]:
    """Return what must not depend on kills and timing: no times, no counts of waiting."""
    status = plan_status(cluster.observed)
    return {
        "conditions": {(c["type"], c["status"], c["reason"]) for c in status["conditions"]},
        "attempt": status["attempt"]["number"],
        "restarts": status["restarts"],
        "history": [(r["number"], r["stage"], r["outcome"]) for r in status["history"]],
        "jobs": set(cluster.applied),
    }


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_kill_after_any_write_changes_nothing(name: str) -> None:
    kind, script = SCENARIOS[name]
    undisturbed = played(kind, script)
    for write in range(1, undisturbed.writes + 1):
        assert normal(played(kind, script, kills=(write, write + 1))) == normal(undisturbed)


@pytest.mark.parametrize("name", SCENARIOS)
def test_timing_and_many_kills_change_nothing(name: str) -> None:
    kind, script = SCENARIOS[name]
    undisturbed = played(kind, script)
    for seed in range(1, 21):
        chance = random.Random(seed)
        kills = tuple(chance.sample(range(1, 80), 12))
        assert normal(played(kind, script, seed=seed, kills=kills)) == normal(undisturbed)


def test_each_child_of_a_run_is_made_for_its_attempt() -> None:
    script = SCENARIOS["ranks die twice"][1]
    jobs = [name for name in played(EXPERIMENT, script).applied if name.startswith("Job")]
    assert jobs == [f"Job assistant-{suffix}" for suffix in ("p1", "a1", "a2", "a3")]


def test_a_final_object_is_left_alone_whatever_happens_to_its_children() -> None:
    cluster = played(EXPERIMENT, {})
    before, writes = plan_status(cluster.observed), cluster.writes
    cluster.jobs.clear()
    cluster.step()
    assert (plan_status(cluster.observed), cluster.writes) == (before, writes)
