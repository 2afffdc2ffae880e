"""Plays the Job controller and the kubelet: pods whose words are written, with nothing in them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web
from operator_api import Api, Manifest

import good_ends
from finetune_api.names import (
    COMPONENT_LABEL,
    CONTAINER,
    DATASET,
    EXPERIMENT,
    METRICS_PORT,
    OWNER_LABELS,
    OWNER_UID_ANNOTATION,
)
from finetune_operator.child_facts import INDEX_ANNOTATION
from finetune_operator.informers import CHILD_LABELS

JOBS, PODS = "/apis/batch/v1", "/api/v1"
WAITING, RUNNING = "burst", "active"
"""Experiments whose names begin so never leave their preparation, or train for ever."""
NETWORK = f"127.{os.getpid() % 250 + 1}"
"""Where pods have their addresses; measurements at the same time do not meet there."""
PODS_PER_SECOND = 20.0
"""The Job controller of Kubernetes makes no more with its default settings."""


class PlayedPods:
    """Gives every Job one pod, and most pods a good end."""

    def __init__(self, api: Api) -> None:
        self._api, self._answers = api, web.AppRunner(_progress(), access_log=None)
        self._group = asyncio.TaskGroup()
        self._next_pod = time.monotonic()
        self.made: dict[str, float] = {}
        """made are the moments at which the watch told of each Job, by namespace/name."""
        self.running = 0
        """running is the number of pods that train for ever."""

    async def run(self) -> None:
        """Play until cancelled; survives restarts of the API server."""
        while True:
            try:
                async for change in self._api.watch(f"{JOBS}/jobs", CHILD_LABELS):
                    self._see(change)
            except aiohttp.ClientError:
                await asyncio.sleep(0.5)

    def _see(self, change: Manifest) -> None:
        if change["type"] != "ADDED":
            return
        name = _place(change["object"])
        if name in self.made:  # a list after a restart tells of old ones again
            return
        self.made[name] = time.monotonic()
        self._group.create_task(self._play(change["object"]))

    async def _play(self, job: Manifest) -> None:
        labels = job["metadata"]["labels"]
        name = labels.get(OWNER_LABELS[EXPERIMENT], "")
        preparing = labels.get(COMPONENT_LABEL) == "prepare"
        if name.startswith(WAITING):
            self._next_pod = max(self._next_pod, time.monotonic()) + 1 / PODS_PER_SECOND
            await asyncio.sleep(self._next_pod - time.monotonic())
            await self._api.create(_collection(job), _pod(job))
        elif name.startswith(RUNNING) and not preparing:
            await self._train(job)
        else:
            await self._end(job, EXPERIMENT if name else DATASET, preparing=preparing)

    async def _train(self, job: Manifest) -> None:
        self.running += 1
        address = f"{NETWORK}.{self.running // 250}.{self.running % 250 + 1}"
        self._answers.app["runs"][address] = f"{_owner(job)['uid']}/1"
        await web.TCPSite(self._answers, address, METRICS_PORT).start()
        pod = await self._api.create(_collection(job), _pod(job))
        await self._tell(pod, phase="Running", podIP=address, podIPs=[{"ip": address}])

    async def _end(self, job: Manifest, kind: str, *, preparing: bool) -> None:
        outcome = good_ends.GOOD_ENDS[kind, "prepare" if preparing else "attempt"]()
        text = outcome.model_dump_json(by_alias=True, exclude_none=True)
        pod = await self._api.create(_collection(job), _pod(job))
        ended = {"exitCode": 0, "reason": "Completed", "message": text, "finishedAt": _now()}
        await self._tell(pod, phase="Succeeded", state={"terminated": ended})
        path = f"{JOBS}/namespaces/{job['metadata']['namespace']}/jobs/{job['metadata']['name']}"
        await self._api.merge(path + "/status", {"status": _complete(job)})

    async def _tell(
        self, pod: Manifest, *, phase: str, state: dict[str, Any] | None = None, **status: Any
    ) -> None:
        ready = "True" if phase == "Running" else "False"
        container = {
            "name": CONTAINER, "image": "x", "imageID": "x", "ready": ready == "True",
            "restartCount": 0, "state": state or {"running": {"startedAt": _now()}},
        }  # fmt: skip
        status |= {
            "phase": phase, "containerStatuses": [container],
            "conditions": [_condition("PodScheduled"), _condition("Ready", ready)],
        }  # fmt: skip
        path = f"{_collection(pod)}/{pod['metadata']['name']}/status"
        await self._api.merge(path, {"status": status})

    @asynccontextmanager
    async def playing(self) -> AsyncIterator[PlayedPods]:
        """Play while the block runs; a pod that cannot be played ends it."""
        await self._answers.setup()
        try:
            async with self._group:
                task = self._group.create_task(self.run())
                yield self
                task.cancel()
        finally:
            await self._answers.cleanup()


def _progress() -> web.Application:
    """Return what answers for all running pods; each has an address of its own."""
    app, began = web.Application(), time.monotonic()
    app["runs"] = {}

    async def answer(request: web.Request) -> web.Response:
        address = request.get_extra_info("sockname")[0]
        step = int(time.monotonic() - began)
        told = {
            "version": 1, "run": app["runs"][address], "phase": "Training", "percentage": 1,
            "ranksJoined": 1, "ranksExpected": 1, "step": step, "totalSteps": 100_000,
            "epoch": 0.01, "secondsSinceStep": 0.5, "medianStepSeconds": 1.0,
            "etaSeconds": 100_000.0 - step, "tokensPerSecond": 1e4, "loss": 1 + 1 / (1 + step),
        }  # fmt: skip
        return web.json_response(told)

    app.router.add_get("/progress", answer)
    return app


def _pod(job: Manifest) -> Manifest:
    metadata, template = job["metadata"], job["spec"]["template"]
    owner = {
        "apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"], "uid": metadata["uid"],
        "controller": True, "blockOwnerDeletion": True,
    }  # fmt: skip
    annotations = {OWNER_UID_ANNOTATION: _owner(job)["uid"], INDEX_ANNOTATION: "0"}
    return {
        "metadata": {
            "name": f"{metadata['name']}-0-abcde", "namespace": metadata["namespace"],
            "labels": template["metadata"]["labels"], "annotations": annotations,
            "ownerReferences": [owner],
        },
        "spec": template["spec"] | {"nodeName": "played", "restartPolicy": "Never"},
    }  # fmt: skip


def _complete(job: Manifest) -> Manifest:
    moment = _now()
    kinds = ("SuccessCriteriaMet", "Complete")
    return {
        "startTime": job["metadata"]["creationTimestamp"], "completionTime": moment,
        "succeeded": 1, "completedIndexes": "0", "uncountedTerminatedPods": {},
        "conditions": [_condition(kind) | {"reason": "CompletionsReached"} for kind in kinds],
    }  # fmt: skip


def _condition(kind: str, status: str = "True") -> Manifest:
    return {"type": kind, "status": status, "lastTransitionTime": _now()}


def _owner(child: Manifest) -> Manifest:
    owner: Manifest = child["metadata"]["ownerReferences"][0]
    return owner


def _collection(manifest: Manifest) -> str:
    return f"{PODS}/namespaces/{manifest['metadata']['namespace']}/pods"


def _place(manifest: Manifest) -> str:
    return f"{manifest['metadata']['namespace']}/{manifest['metadata']['name']}"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
