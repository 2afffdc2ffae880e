"""kopf as an informer shell: it brings every change of our kinds and leaves no mark."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import asynccontextmanager

import kopf
import pytest

from emulated_api_server import EmulatedApiServer
from finetune_operator import intake
from finetune_operator.cluster.api_transport import ApiTransport
from finetune_operator.cluster.resources import OURS
from finetune_operator.informers import ObjectSink
from finetune_operator.object_cache import ObjectCache
from finetune_operator.observed import Key
from finetune_operator.work_queue import WorkQueue


def dataset(name: str, namespace: str = "ml") -> dict:
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "Dataset",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"sources": []},
    }


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.02)


@asynccontextmanager
async def watching(namespaces: tuple[str, ...] = ()):
    cache = ObjectCache()
    sinks = {kind: ObjectSink(kind, cache, WorkQueue()) for kind in OURS}
    transport = await ApiTransport.connect()
    ready, stop = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(
        intake.run(sinks, transport.connection, namespaces=namespaces, ready=ready, stop=stop)
    )
    try:
        await asyncio.wait_for(ready.wait(), 10)
        yield cache
    finally:
        stop.set()
        await asyncio.wait_for(task, 20)
        await transport.close()


def names(cache: ObjectCache) -> set[str]:
    return {key.name for key in cache.known()}


@pytest.mark.usefixtures("kubeconfig")
async def test_objects_that_exist_appear_change_and_go_are_all_told(server: EmulatedApiServer):
    await server.put(dataset("old"))
    async with watching() as cache:
        await until(lambda: names(cache) == {"old"})
        await server.put(dataset("new"))
        await until(lambda: names(cache) == {"old", "new"})
        await server.put({**dataset("new"), "spec": {"sources": [1]}})
        key = Key("Dataset", "ml", "new")
        await until(lambda: json.loads(cache.text(key) or b"")["spec"] == {"sources": [1]})
        await server.remove("Dataset", "old")
        await until(lambda: names(cache) == {"new"})


@pytest.mark.usefixtures("kubeconfig")
async def test_a_handled_object_carries_no_mark_and_nothing_at_all_is_written(server):
    await server.put(dataset("faq"))
    before = json.dumps(server.find("Dataset", "faq"))
    async with watching() as cache:
        await until(lambda: names(cache) == {"faq"})
        await server.put({**dataset("faq"), "spec": {"sources": [2]}})
        key = Key("Dataset", "ml", "faq")
        await until(lambda: b'"sources":[2]' in (cache.text(key) or b""))
    assert [r for r in server.requests if r.verb not in ("get", "list", "watch")] == []
    after = server.find("Dataset", "faq") or {}
    assert after["metadata"].keys() == json.loads(before)["metadata"].keys()


@pytest.mark.usefixtures("kubeconfig")
async def test_after_410_everything_is_listed_again(server: EmulatedApiServer):
    await server.put(dataset("one"))
    async with watching() as cache:
        await until(lambda: names(cache) == {"one"})
        await server.forget_history()
        await server.put(dataset("two"))
        await until(lambda: names(cache) == {"one", "two"})


@pytest.mark.usefixtures("kubeconfig")
async def test_only_the_watched_namespaces_are_asked_for(server: EmulatedApiServer):
    await server.put(dataset("mine", "ml"))
    await server.put(dataset("theirs", "other"))
    async with watching(("ml",)) as cache:
        await until(lambda: names(cache) == {"mine"})
    asked = {r.namespace for r in server.requests if r.resource == "datasets"}
    assert asked == {"ml"}


def test_only_event_handlers_are_registered_because_others_would_write_to_the_objects():
    registry = kopf.OperatorRegistry()
    intake.register(registry, {kind: ObjectSink(kind, ObjectCache(), WorkQueue()) for kind in OURS})
    assert len(list(registry._watching.get_all_handlers())) == len(OURS)
    for others in (registry._changing, registry._spawning, registry._indexing):
        assert list(others.get_all_handlers()) == []


def test_kopf_copies_no_object_to_tell_what_changed_in_it():
    kept = intake.watch_settings().persistence.diffbase_storage
    assert (kept.build(body=None, extra_fields=()), kept.fetch(body=None)) == ({}, None)
