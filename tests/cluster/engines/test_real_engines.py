"""What the played controllers of the unit tests promise, asked of the real ones.

The Job controller of Kubernetes, and above it that of JobSets with its webhooks. Nodes and
containers are played; the operator has the rights of its chart.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from engines.real_engine import RealEngine, real_engine
from harness.bare_api import BareApi

from builders import outcome
from faults.fault_scenarios import a_rank_fails_first, good_end, the_first_attempt_waits
from faults.played_kubelet import LAST_STEP, Act, Script, Work
from finetune_api.compute_settings import Engine
from finetune_api.names import EXPERIMENT
from finetune_api.run_outcome import FailureClass, Outcome

Lab = Callable[[Script], AbstractAsyncContextManager[RealEngine]]
HANG = outcome(FailureClass.PEER_LOST, reason="Hang", rank=0, message="no progress of rank 1")
LOST = outcome(FailureClass.PEER_LOST, rank=0, message="the connection to rank 1 is gone")
WRONG = outcome(FailureClass.DATA, rank=1, message="column answer is missing")


@pytest.fixture
def lab(api: BareApi, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Open a namespace whose pods follow a script."""
    return lambda script: real_engine(api, engine, script, tmp_path, monkeypatch)


def first_attempt(rank: int, end: Outcome) -> Script:
    """Return a script: this rank of the first attempt ends so, the other one is left to wait."""

    def script(work: Work) -> Act:
        if work.component != "attempt" or work.attempt > 1:
            return good_end(work)
        return Act(end if work.rank == rank else None, step=40)

    return script


def cost(status: dict[str, Any]) -> dict[str, int]:
    """Return the restarts that are not 0."""
    return {name: times for name, times in status["restarts"].items() if times}


async def test_an_attempt_completes(lab: Lab) -> None:
    async with lab(good_end) as run:
        await run.begin()
        status = await run.completed()
        assert (status["attempt"]["number"], cost(status)) == (1, {}), status["history"]
        assert status["result"]["step"] == LAST_STEP


async def test_ranks_meet_under_the_name_that_the_pods_have(lab: Lab) -> None:
    async with lab(the_first_attempt_waits) as run:
        await run.begin()
        for pod in await run.ranks_run():
            env = {v["name"]: v.get("value") for v in pod["spec"]["containers"][0]["env"]}
            first = run.ranks()[0]["spec"]
            assert env["MASTER_ADDR"] == f"{first['hostname']}.{first['subdomain']}"
            assert pod["spec"]["subdomain"] == run.world.status(EXPERIMENT)["children"]["service"]


async def test_a_rank_that_fails_ends_the_attempt_and_the_next_one_follows(lab: Lab) -> None:
    async with lab(a_rank_fails_first) as run:
        await run.begin()
        status = await run.completed()
        assert (status["attempt"]["number"], cost(status)) == (2, {"unknown": 1}), status["history"]
        assert status["history"][-2]["rank"] == 1


async def test_a_named_cause_that_repeats_nothing_is_final(lab: Lab) -> None:
    async with lab(first_attempt(1, WRONG)) as run:
        await run.begin()
        await run.world.until_condition(EXPERIMENT, "Failed", "True")
        assert run.ready() == "InvalidData"
        assert run.children() == ["assistant-a1"]


async def test_a_hang_that_a_rank_reports_costs_a_lost_peer(lab: Lab) -> None:
    async with lab(first_attempt(0, HANG)) as run:
        await run.begin()
        status = await run.completed()
        assert (status["attempt"]["number"], cost(status)) == (2, {"peerLost": 1}), status[
            "history"
        ]
        assert status["history"][-2]["outcome"] == "Hang"


async def test_a_peer_that_is_lost_is_no_disruption_though_its_pod_is_deleted(lab: Lab) -> None:
    """The Job controller deletes the rank that still waits, as soon as the other has ended."""
    async with lab(first_attempt(0, LOST)) as run:
        await run.begin()
        status = await run.completed()
        assert (status["attempt"]["number"], cost(status)) == (2, {"peerLost": 1}), status[
            "history"
        ]


async def test_an_eviction_is_a_disruption(lab: Lab) -> None:
    async with lab(the_first_attempt_waits) as run:
        await run.begin()
        await run.evict((await run.ranks_run())[1])
        status = await run.completed()
        assert (status["attempt"]["number"], cost(status)) == (2, {"disruption": 1}), status[
            "history"
        ]


async def test_a_suspended_attempt_is_deleted_and_another_one_goes_on(lab: Lab) -> None:
    async with lab(the_first_attempt_waits) as run:
        await run.begin()
        await run.ranks_run()
        await run.world.change(EXPERIMENT, {"spec": {"runPolicy": {"suspend": True}}})
        await run.world.until_condition(EXPERIMENT, "Suspended", "True")
        assert (run.children(), run.ranks()) == ([], [])
        await run.world.change(EXPERIMENT, {"spec": {"runPolicy": {"suspend": False}}})
        status = await run.completed()
        assert (status["attempt"]["number"], cost(status)) == (2, {}), status["history"]


async def test_a_queue_starts_stops_and_resumes_the_same_attempt(lab: Lab) -> None:
    async with lab(the_first_attempt_waits) as run:
        await run.begin(queueName="research")
        child = await run.child()
        assert child["spec"]["suspend"] is True
        assert child["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
        await run.until_ready_says("Queued")
        assert run.ranks() == []
        await run.suspend(False)
        await run.ranks_run()
        await run.suspend(True)
        await run.until_ready_says("Queued")
        await run.world.until(lambda: not run.ranks(), "its pods are gone")
        run.plays(good_end)
        await run.suspend(False)
        status = await run.completed()
        assert (status["attempt"]["number"], cost(status)) == (1, {"disruption": 1}), status[
            "history"
        ]


async def test_an_attempt_that_somebody_deletes_is_followed_by_another(lab: Lab) -> None:
    async with lab(the_first_attempt_waits) as run:
        await run.begin()
        await run.ranks_run()
        await run.delete_child()
        status = await run.completed()
        assert (status["attempt"]["number"], cost(status)) == (2, {"disruption": 1}), status[
            "history"
        ]


async def test_a_run_that_is_deleted_leaves_nothing(lab: Lab) -> None:
    async with lab(the_first_attempt_waits) as run:
        await run.begin()
        await run.ranks_run()
        await run.world.delete(EXPERIMENT)
        await run.until_nothing_is_left()
