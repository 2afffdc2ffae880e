"""Attempts in a queue of a real Kueue with its webhooks: as Jobs, and as JobSets.

Nodes and containers are played.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from engines.real_engine import RealEngine, real_engine
from engines.shared_queue import OTHERS, SharedQueue
from engines.test_real_engines import cost
from harness.bare_api import BareApi
from harness.controller import KUEUE_SETTINGS, controller
from kueue_objects import KUEUE, NEEDED, QUEUE, flavor, priority_class, topology
from played_nodes import join, node

from faults.fault_scenarios import a_rank_fails_first, good_end, the_first_attempt_waits
from faults.played_kubelet import Script
from finetune_api.compute_settings import Engine
from finetune_api.names import EXPERIMENT

pytestmark = pytest.mark.skipif(not KUEUE, reason=NEEDED)
Lab = Callable[[Script], AbstractAsyncContextManager[tuple[RealEngine, SharedQueue]]]
RANKS = 2
URGENT = "urgent"


@pytest.fixture(scope="module")
def kueue(api: BareApi) -> Iterator[BareApi]:
    """The server with Kueue beside it."""
    with controller(Path(KUEUE), KUEUE_SETTINGS, api.kubeconfig(), api.folder / "kueue"):
        api.kubectl("create", "namespace", OTHERS)
        api.apply(flavor(), priority_class(URGENT, 1000))
        yield api


@pytest.fixture
def lab(kueue: BareApi, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Open a namespace and its queue."""

    @asynccontextmanager
    async def opened(script: Script) -> AsyncIterator[tuple[RealEngine, SharedQueue]]:
        async with real_engine(kueue, engine, script, tmp_path, monkeypatch) as run:
            queue = SharedQueue(kueue, run.namespace)
            await queue.opens(pods=RANKS)
            yield run, queue

    return opened


async def test_a_run_waits_for_quota_says_why_and_completes(lab: Lab) -> None:
    async with lab(good_end) as (run, queue):
        await queue.has_quota(pods=RANKS - 1)
        await run.begin(queueName=QUEUE)
        await run.until_ready_says("Queued")
        await run.until_told("QuotaReserved", "for pods in flavor default")
        assert run.ranks() == []
        await queue.has_quota(pods=RANKS)
        status = await run.completed()
        assert (status["attempt"]["number"], cost(status)) == (1, {}), status["history"]


async def test_its_end_gives_the_quota_to_the_next_one(lab: Lab) -> None:
    async with lab(good_end) as (run, queue):
        await run.begin(queueName=QUEUE)
        await run.child()
        await queue.takes_a_job(pods=RANKS)
        await run.completed()
        await queue.until_that_runs()


async def test_what_is_more_urgent_takes_its_quota_and_the_same_attempt_goes_on(lab: Lab) -> None:
    async with lab(the_first_attempt_waits) as (run, queue):
        await run.begin(queueName=QUEUE)
        await run.ranks_run()
        await queue.takes_a_job(pods=1, priority=URGENT)
        await queue.until_that_runs()
        await run.until_ready_says("Queued")
        await run.world.until(lambda: not run.ranks(), "its pods are gone")
        run.plays(good_end)
        await queue.loses_that()
        status = await run.completed()
        assert (status["attempt"]["number"], cost(status)) == (1, {"disruption": 1}), status[
            "history"
        ]


async def test_an_urgent_run_takes_the_quota_of_another(lab: Lab) -> None:
    async with lab(good_end) as (run, queue):
        await queue.takes_a_job(pods=RANKS)
        await queue.until_that_runs()
        await run.begin(queueName=QUEUE, queuePriorityClassName=URGENT)
        status = await run.completed()
        assert cost(status) == {}
        await queue.until_that_runs()


async def test_the_attempt_after_a_failed_one_finds_its_quota_free(lab: Lab) -> None:
    async with lab(a_rank_fails_first) as (run, _):
        await run.begin(queueName=QUEUE)
        status = await run.completed()
        assert (status["attempt"]["number"], cost(status)) == (2, {"unknown": 1}), status["history"]


async def test_a_suspended_run_leaves_its_quota_and_waits_for_it_again(lab: Lab) -> None:
    async with lab(the_first_attempt_waits) as (run, queue):
        await run.begin(queueName=QUEUE)
        await run.ranks_run()
        await queue.takes_a_job(pods=RANKS)
        await run.world.change(EXPERIMENT, {"spec": {"runPolicy": {"suspend": True}}})
        await queue.until_that_runs()
        await run.world.change(EXPERIMENT, {"spec": {"runPolicy": {"suspend": False}}})
        await run.until_ready_says("Queued")
        await queue.loses_that()
        status = await run.completed()
        assert (status["attempt"]["number"], cost(status)) == (2, {}), status["history"]


async def test_an_evicted_rank_costs_a_disruption_and_the_next_attempt_queues(lab: Lab) -> None:
    async with lab(the_first_attempt_waits) as (run, _):
        await run.begin(queueName=QUEUE)
        await run.evict((await run.ranks_run())[1])
        status = await run.completed()
        assert (status["attempt"]["number"], cost(status)) == (2, {"disruption": 1}), status[
            "history"
        ]


@pytest.fixture(scope="module")
def racks(kueue: BareApi) -> str:
    """Nodes in two racks, each for one rank, one rack with two; returns their flavor."""
    kueue.apply(*topology("racks", "rack"))
    join(kueue, *(node(name, pool="racks", rack=name[0]) for name in ("a1", "b1", "b2")))
    return "racks"


async def test_both_ranks_are_sent_to_the_rack_that_has_room(lab: Lab, racks: str) -> None:
    async with lab(the_first_attempt_waits) as (run, queue):
        await queue.has_quota(pods=RANKS, flavor=racks)
        await run.begin(queueName=QUEUE, topologyKey="rack", topologyMode="Required")
        pods = await run.ranks_run()
        assert [pod["spec"]["nodeSelector"].get("rack") for pod in pods] == ["b", "b"]
        await run.world.delete(EXPERIMENT)
        await run.until_nothing_is_left()


async def test_a_run_that_is_deleted_while_it_waits_leaves_nothing(lab: Lab) -> None:
    async with lab(good_end) as (run, queue):
        await queue.has_quota(pods=0)
        await run.begin(queueName=QUEUE)
        await run.until_ready_says("Queued")
        await run.world.delete(EXPERIMENT)
        await run.until_nothing_is_left()
