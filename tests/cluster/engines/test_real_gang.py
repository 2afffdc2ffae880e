"""Gangs under a real Volcano, for both engines: its scheduler binds the pods, nodes are played."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from engines.real_engine import RealEngine, real_engine
from engines.test_real_engines import cost
from harness.bare_api import BareApi
from harness.gang_scheduler import volcano
from played_nodes import claim, join, node

from faults.fault_scenarios import a_rank_fails_first, good_end
from faults.played_kubelet import Script
from finetune_api.compute_settings import Engine

VOLCANO = os.environ.get("FINETUNE_TEST_VOLCANO", "")
pytestmark = pytest.mark.skipif(
    not VOLCANO,
    reason="FINETUNE_TEST_VOLCANO names no folder of a Volcano; "
    "`python3 -m harness volcano` in tests/cluster builds one",
)
Lab = Callable[[Script], AbstractAsyncContextManager[RealEngine]]


@pytest.fixture(scope="module")
def gangs(api: BareApi) -> Iterator[BareApi]:
    """The server with Volcano beside it."""
    with volcano(Path(VOLCANO), api.kubeconfig(), api.folder / "volcano"):
        yield api


@pytest.fixture
def lab(gangs: BareApi, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Open a namespace with the claims of its run; at the end all nodes leave."""

    @asynccontextmanager
    async def opened(script: Script) -> AsyncIterator[RealEngine]:
        async with real_engine(gangs, engine, script, tmp_path, monkeypatch) as run:
            gangs.apply(*claim("artifacts", run.namespace), *claim("models", run.namespace))
            try:
                yield run
            finally:
                gangs.kubectl("delete", "nodes", "--all")

    return opened


async def test_one_rank_with_room_waits_for_the_other(gangs: BareApi, lab: Lab) -> None:
    async with lab(good_end) as run:
        join(gangs, node("alone"))
        await run.begin(gang="Volcano")
        await run.until_told("Ready", "pod group is not ready")
        assert [pod["spec"].get("nodeName") for pod in run.ranks()] == [None, None]
        join(gangs, node("beside"))
        status = await run.completed()
        assert (status["attempt"]["number"], cost(status)) == (1, {}), status["history"]


async def test_the_attempt_after_a_failed_one_is_a_gang_of_its_own(
    gangs: BareApi, lab: Lab
) -> None:
    async with lab(a_rank_fails_first) as run:
        join(gangs, node("one"), node("other"))
        await run.begin(gang="Volcano")
        status = await run.completed()
        assert (status["attempt"]["number"], cost(status)) == (2, {"unknown": 1}), status["history"]
