"""A pod may answer whatever it likes: nothing it says costs more than its own progress."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from finetune_api.names import METRICS_PORT
from finetune_api.reported_values import LARGEST_INTEGER, read_report
from finetune_api.run_outcome import Outcome
from finetune_api.run_progress import MAX_BYTES, Progress
from finetune_operator import metrics
from finetune_operator.child_facts import outcome
from finetune_operator.cluster import kubernetes_cluster
from finetune_operator.cluster.kubernetes_cluster import KubernetesCluster
from finetune_operator.errors import UnavailableError
from finetune_operator.object_series import ObjectSeries
from finetune_operator.observed import Key

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PATIENCE_SECONDS = 0.5


async def _nothing() -> None:
    return None


@asynccontextmanager
async def pod(handler: Handler) -> AsyncIterator[dict[str, Any]]:
    """Run a pod's server on an address of loopback that nobody else uses."""
    address = f"127.{random.randint(2, 254)}.{random.randint(0, 254)}.{random.randint(1, 254)}"
    app = web.Application()
    app.router.add_get("/progress", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, address, METRICS_PORT).start()
    try:
        yield {"status": {"podIP": address}}
    finally:
        await runner.cleanup()


async def fetched(handler: Handler) -> bytes:
    """Ask a pod as the operator does."""
    cluster = KubernetesCluster(SimpleNamespace(close=_nothing))  # type: ignore[arg-type]
    try:
        async with pod(handler) as found:
            return await cluster.fetch_progress(found)
    finally:
        await cluster.close()


async def refusal(handler: Handler) -> str:
    with pytest.raises(UnavailableError) as caught:
        await fetched(handler)
    return str(caught.value)


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = aiohttp.ClientTimeout(total=PATIENCE_SECONDS)
    monkeypatch.setattr(kubernetes_cluster, "PROGRESS_TIMEOUT", limit)


async def test_an_honest_answer_is_read():
    async def answer(_):
        return web.Response(body=b"x" * MAX_BYTES)

    assert await fetched(answer) == b"x" * MAX_BYTES


async def test_a_body_without_end_is_left_after_the_limit():
    sent = 0

    async def answer(request):
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65536)
            sent += 65536

    assert "progress answer of" in await refusal(answer)
    assert sent < 64 * MAX_BYTES


async def test_a_body_that_never_comes_costs_the_patience_and_no_more():
    async def answer(request):
        response = web.StreamResponse()
        await response.prepare(request)
        await asyncio.sleep(60)
        return response

    assert await refusal(answer) == "no progress answer (TimeoutError)"


async def test_a_redirect_is_not_followed():
    followed = []

    async def elsewhere(request):
        followed.append(request)
        return web.Response(body=b"{}")

    async with pod(elsewhere) as other:
        target = f"http://{other['status']['podIP']}:{METRICS_PORT}/progress"

        async def answer(_):
            raise web.HTTPFound(target)

        assert "status 302" in await refusal(answer)
    assert followed == []


async def test_a_small_body_that_unpacks_to_a_large_one_stays_small():
    packed = gzip.compress(b" " * 50_000_000)

    async def answer(_):
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    assert await fetched(answer) == packed
    with pytest.raises(ValueError, match="codec"):
        read_report(Progress, packed)


async def test_an_endless_header_is_no_answer():
    async def answer(_):
        return web.Response(headers={f"x-{n}": "y" * 8000 for n in range(200)})

    assert "no progress answer" in await refusal(answer)


async def test_proxies_of_the_environment_are_not_asked(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    async def answer(_):
        return web.Response(body=b"{}")

    assert await fetched(answer) == b"{}"


def told(**fields: Any) -> bytes:
    return json.dumps({"version": 1, "run": "u/1", "phase": "Training", **fields}).encode()


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(told(step=10**30), id="integer beyond 64 bits"),
        pytest.param(told(best={"metric": "loss", "value": 1, "step": 2**60}), id="inside a part"),
        pytest.param(told(checkpoint={"step": 10**4000, "uri": "", "digest": ""}), id="huge"),
        pytest.param(told(loss=1).replace(b'"loss": 1', b'"loss": 1e999'), id="infinite by size"),
        pytest.param(told(metrics={"loss": float("nan")}), id="not a number"),
        pytest.param(told(eta_seconds=1).replace(b"eta_seconds", b"etaSeconds") + b"0", id="tail"),
        pytest.param(told(etaSeconds=1e300), id="an end after the universe's"),
        pytest.param(told(step="7"), id="text for a number"),
        pytest.param(told(step=True), id="a truth value for a number"),
        pytest.param(told(phase="Training\nReady"), id="a phase of two lines"),
        pytest.param(told(phase="x" * 64), id="a long phase"),
        pytest.param(told(metrics={'a",evil="b': 1.0}), id="a name that is no metric's"),
        pytest.param(told(metrics={"m" * 64: 1.0}), id="a long name"),
        pytest.param(told(metrics={f"m{n}": 1.0 for n in range(33)}), id="too many metrics"),
        pytest.param(b"[" * 100_000, id="nested deeply"),
        pytest.param(b"[" * 900 + b"]" * 900, id="a list"),
        pytest.param(b"\xff\xfe", id="no text"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"null", id="null"),
    ],
)
def test_what_a_status_could_not_hold_is_thrown_away(raw):
    with pytest.raises(ValueError):  # noqa: PT011 - whichever: the caller knows no difference
        read_report(Progress, raw)


def test_the_largest_integer_is_believed():
    assert read_report(Progress, told(step=LARGEST_INTEGER)).step == LARGEST_INTEGER


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("\x1b]0;owned\x07\x1b[2Jgone", " ]0;owned  [2Jgone"),
        ("\u202egnp.exe", " gnp.exe"),
        ("\x00\x7f\x9b31m", "   31m"),
        ("two\nlines, wide: 日本", "two\nlines, wide: 日本"),
    ],
)
def test_a_message_cannot_steer_a_terminal(said, shown):
    text = json.dumps({"version": 1, "class": "Data", "message": said})
    found = outcome(text)
    assert found is not None
    assert found.message == shown
    assert read_report(Outcome, json.dumps({"class": "Data", "remedy": said})).remedy == shown


@pytest.mark.parametrize(
    "message",
    [
        json.dumps({"class": "Data", "reason": "two words"}),
        json.dumps({"class": "Data", "reason": 'x",status="y'}),
        json.dumps({"class": "Data", "step": 10**25}),
        json.dumps({"class": "Nonsense"}),
        "[" * 2000,
        json.dumps({"class": "Data", "message": "x" * 5000}),
        "\x1b[31m",
        None,
        7,
    ],
    ids=str,
)
def test_a_last_word_that_is_none_is_absent(message):
    assert outcome(message) is None


def test_ever_new_names_of_metrics_are_not_ever_more_series():
    series, key = ObjectSeries(), Key("FineTuneExperiment", "lab", "hostile")
    for number in range(50):
        measured = [{"name": f"m{number}", "value": 1.0}]
        series.seen(key, {"metrics": measured}, datetime(2026, 1, 1, tzinfo=UTC))
    [family] = metrics.EXPERIMENT_EVALUATION.collect()
    own = [s for s in family.samples if s.labels["experiment"] == "hostile"]
    series.forget(key)
    assert [sample.labels["metric"] for sample in own] == ["m49"]
