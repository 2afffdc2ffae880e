"""Plays scheduler, kubelet and trainer: binds pods, runs them, answers for them, ends them.

What a pod does stands in its namespace's `Script`. It reads its configuration, writes to the store
of its namespace, and goes on from the newest checkpoint there. A pod that is deleted stops as a
trainer does: it checkpoints, writes its last word, and is gone.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from faults.admin_api import AdminApi, Json, RefusedByServerError, path_of
from faults.played_store import PlayedStore
from finetune_api.names import (
    ATTEMPT_LABEL,
    COMPONENT_LABEL,
    CONFIG_KEY,
    CONTAINER,
    EXPERIMENT,
    METRICS_PORT,
    OWNER_UID_ANNOTATION,
    REVISION_LABEL,
)
from finetune_api.run_outcome import EXIT_CODES, FailureClass, Outcome
from finetune_operator.object_cache import owner_key

NODE = "played-node"
STEP_SECONDS, STEPS_AT_ONCE, LAST_STEP = 0.05, 10, 100
CHECKPOINT_STEPS = 20
CONFIG_SECONDS, STARTING_SECONDS = 0.2, 3.0
_FIRST_ADDRESS = int(ipaddress.ip_address("127.64.0.0"))
"""Another process on the machine may play pods too: each begins elsewhere."""
INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"


@dataclass(frozen=True)
class Work:
    """What a pod is there for."""

    kind: str
    component: str
    attempt: int
    revision: int
    rank: int

    @property
    def trains(self) -> bool:
        """Tell whether it takes steps."""
        return self.kind == EXPERIMENT and self.component == "attempt"


@dataclass(frozen=True)
class Act:
    """What a pod does: steps until `step`, then its end; an end of None waits to be stopped."""

    end: Outcome | None
    step: int = LAST_STEP


Script = Callable[[Work], Act]


@dataclass
class _Pod:
    manifest: Json
    work: Work
    address: str
    config: Json = field(default_factory=dict)
    step: int = 0
    first: int | None = None
    """first is the step that it went on from, once it takes steps."""
    checkpoint: Json | None = None
    """checkpoint is the newest that it knows."""
    asked: int = 0
    asked_twice: asyncio.Event = field(default_factory=asyncio.Event)
    """asked_twice while it starts: then a status says so."""
    deleted: bool = False
    ended: bool = False
    task: asyncio.Task[None] | None = None


@dataclass
class Stage:
    """One namespace: its script and what its pods stored."""

    script: Script
    store: PlayedStore = field(default_factory=PlayedStore)


class PlayedKubelet:
    """Plays the pods of every namespace that has a stage."""

    def __init__(self, api: AdminApi) -> None:
        self._api = api
        self.stages: dict[str, Stage] = {}
        self._pods: dict[str, _Pod] = {}
        self._by_address: dict[str, _Pod] = {}
        self._addresses = itertools.count(_FIRST_ADDRESS + os.getpid() % 4096 * 1024 + 1)
        self._ports: web.AppRunner | None = None

    async def serve(self) -> None:
        """Prepare to answer on the progress port of pods."""
        app = web.Application()
        app.router.add_get("/progress", self._progress)
        self._ports = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._ports.setup()

    async def close(self) -> None:
        """Stop every pod and port."""
        for pod in self._pods.values():
            if pod.task is not None:
                pod.task.cancel()
        if self._ports is not None:
            await self._ports.cleanup()

    def seen(self, event: Json) -> None:
        """Take in an event of a pod."""
        manifest = event["object"]
        metadata = manifest["metadata"]
        stage, uid = self.stages.get(metadata["namespace"]), metadata["uid"]
        if event["type"] == "DELETED":
            gone = self._pods.pop(uid, None)
            if gone is not None and gone.task is not None:
                gone.task.cancel()
            return
        if stage is None:
            return
        pod = self._pods.get(uid)
        if pod is None:
            pod = self._pods[uid] = _Pod(manifest, work_of(manifest), self._address())
            pod.task = asyncio.create_task(self._lives(stage, pod))
        pod.manifest = manifest
        if metadata.get("deletionTimestamp") and not pod.deleted:
            pod.deleted = True
            if pod.task is not None:
                pod.task.cancel()
            pod.task = asyncio.create_task(self._stops(stage, pod))

    async def _lives(self, stage: Stage, pod: _Pod) -> None:
        with suppress(RefusedByServerError):
            while pod.manifest["spec"].get("schedulingGates"):  # noqa: ASYNC110 - a queue's
                await asyncio.sleep(CONFIG_SECONDS)
            await self._bind(pod)
            await self._listen(pod)
            await self._status(pod, "Running", {"running": {}})
            pod.config = await self._config(pod)
            act = stage.script(pod.work)
            if pod.work.trains:
                await self._train(stage.store, pod, act.step)
            if act.end is None:
                return
            await asyncio.sleep(STEP_SECONDS)
            await self._end(pod, _last_word(stage.store, pod, act.end))

    async def _train(self, store: PlayedStore, pod: _Pod, until: int) -> None:
        """Take steps from the newest checkpoint on; rank 0 stores some of them."""
        pod.checkpoint = store.newest(pod.config)
        if pod.checkpoint and pod.work.rank == 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(pod.asked_twice.wait(), STARTING_SECONDS)
        pod.step = pod.first = pod.checkpoint["step"] if pod.checkpoint else 0
        while pod.step < until:
            await asyncio.sleep(STEP_SECONDS)
            pod.step += STEPS_AT_ONCE
            if pod.work.rank == 0 and pod.step % CHECKPOINT_STEPS == 0:
                pod.checkpoint = store.checkpoint(pod.config, pod.step)

    async def _stops(self, stage: Stage, pod: _Pod) -> None:
        """SIGTERM: a training pod checkpoints; then the kubelet removes the pod."""
        name, namespace = pod.manifest["metadata"]["name"], pod.manifest["metadata"]["namespace"]
        with suppress(RefusedByServerError):
            if not pod.ended and pod.manifest["spec"].get("nodeName"):
                await asyncio.sleep(STEP_SECONDS)
                said = Outcome(failure_class=FailureClass.CHECKPOINTED)
                await self._end(pod, _last_word(stage.store, pod, said))
        await self._api.delete("Pod", namespace, name, grace=0)

    async def _config(self, pod: _Pod) -> Json:
        """Wait for the ConfigMap of a pod, as the kubelet does, and read it."""
        volumes = pod.manifest["spec"]["volumes"]
        name = next(v["configMap"]["name"] for v in volumes if v["name"] == "config")
        namespace = pod.manifest["metadata"]["namespace"]
        while (found := await self._api.read("ConfigMap", namespace, name)) is None:  # noqa: ASYNC110
            await asyncio.sleep(CONFIG_SECONDS)
        config: Json = json.loads(found["data"][CONFIG_KEY])
        return config

    async def _bind(self, pod: _Pod) -> None:
        """Bind it, or wait for the scheduler that it asks for."""
        if pod.manifest["spec"]["schedulerName"] != "default-scheduler":
            while not pod.manifest["spec"].get("nodeName"):  # noqa: ASYNC110
                await asyncio.sleep(CONFIG_SECONDS)
            return
        metadata = pod.manifest["metadata"]
        target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
        binding = {"apiVersion": "v1", "kind": "Binding", "target": target,
                   "metadata": {"name": metadata["name"]}}  # fmt: skip
        path = path_of("Pod", metadata["namespace"], metadata["name"]) + "/binding"
        await self._api.ask("POST", path, binding)

    async def _end(self, pod: _Pod, outcome: Outcome) -> None:
        code = EXIT_CODES.get(outcome.failure_class, 1)
        terminated = {"exitCode": code, "reason": "Error" if code else "Completed",
                      "message": outcome.encoded().decode()}  # fmt: skip
        pod.ended = True
        await self._status(pod, "Failed" if code else "Succeeded", {"terminated": terminated})

    async def _status(self, pod: _Pod, phase: str, state: Json) -> None:
        metadata, running = pod.manifest["metadata"], phase == "Running"
        told = {"name": CONTAINER, "image": "trainer", "imageID": "", "restartCount": 0,
                "ready": running, "state": state}  # fmt: skip
        ready = {"type": "Ready", "status": "True" if running else "False"}
        status = {"phase": phase, "podIP": pod.address, "podIPs": [{"ip": pod.address}],
                  "conditions": [{"type": "PodScheduled", "status": "True"}, ready],
                  "containerStatuses": [told]}  # fmt: skip
        await self._api.merge(
            "Pod", metadata["namespace"], metadata["name"], {"status": status}, sub="/status"
        )

    def _address(self) -> str:
        return str(ipaddress.ip_address(next(self._addresses)))

    async def _listen(self, pod: _Pod) -> None:
        """Open the port of rank 0; a port that is taken only means that nobody answers."""
        if pod.work.rank or self._ports is None:
            return
        self._by_address[pod.address] = pod
        with suppress(OSError):
            await web.TCPSite(self._ports, pod.address, METRICS_PORT).start()

    async def _progress(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        pod = self._by_address.get(request.transport.get_extra_info("sockname")[0])
        if pod is None or pod.ended or pod.deleted:
            return web.Response(status=503)
        pod.asked += 1
        if pod.asked > 1:
            pod.asked_twice.set()
        annotations: dict[str, Any] = pod.manifest["metadata"]["annotations"]
        phase = "Starting" if pod.first is None else "Training"
        told = {"run": f"{annotations[OWNER_UID_ANNOTATION]}/{pod.work.attempt}",
                "phase": phase if pod.work.trains else "Preparing", "percentage": pod.step,
                "step": pod.step, "totalSteps": LAST_STEP, "firstStep": pod.first,
                "checkpoint": pod.checkpoint}  # fmt: skip
        return web.json_response({name: value for name, value in told.items() if value is not None})


def _last_word(store: PlayedStore, pod: _Pod, outcome: Outcome) -> Outcome:
    """Return an outcome with what the pod has stored by then."""
    said: Json = json.loads(outcome.model_dump_json(by_alias=True, exclude_none=True))
    said |= {"rank": pod.work.rank}
    if pod.work.trains:
        said["step"] = max(said["step"], pod.step)
        said["firstStep"] = pod.first
    if pod.work.rank == 0 and pod.config:
        said = store.results(pod.config, said)
        if pod.first is not None and pod.step > max(
            pod.first, (pod.checkpoint or {}).get("step", 0)
        ):
            pod.checkpoint = store.checkpoint(pod.config, pod.step)
        said["checkpoint"] = pod.checkpoint
        if said.get("result"):
            said["result"] = pod.checkpoint
    return Outcome.model_validate_json(json.dumps(said))


def work_of(pod: Json) -> Work:
    """Return what a pod is there for."""
    labels = pod["metadata"]["labels"]
    owner = owner_key(pod)
    return Work(
        kind=owner.kind if owner else "",
        component="prepare" if labels.get(COMPONENT_LABEL) == "prepare" else "attempt",
        attempt=int(labels[ATTEMPT_LABEL]),
        revision=int(labels.get(REVISION_LABEL, "1")),
        rank=int(pod["metadata"]["annotations"].get(INDEX_ANNOTATION, "0")),
    )
