"""One run of an engine under its real controllers; only nodes and containers are played."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
from harness.bare_api import BareApi
from harness.fault_proxy import upstream_session
from played_operator import played_operator

from builders import NAMES, SPECS
from faults.admin_api import AdminApi, Json, RefusedByServerError, path_of
from faults.fault_scenarios import given_status
from faults.namespace_view import SEEN_KINDS, NamespaceView, World, manifest
from faults.played_kubelet import PlayedKubelet, Script, Stage
from finetune_api.compute_settings import Engine
from finetune_api.names import (
    ATTEMPT_LABEL,
    COMPONENT_LABEL,
    DATASET,
    EXPERIMENT,
    JOB_SET,
    attempt_job,
)

KINDS = {Engine.JOB: "Job", Engine.JOB_SET: JOB_SET}
NAME = NAMES[EXPERIMENT]
ROOM = {"cpu": "4", "memory": "1Gi"}
"""What a rank asks of its node."""


class RealEngine:
    """A namespace with an operator, and who plays the rest of it."""

    def __init__(self, engine: Engine, admin: AdminApi, namespace: str) -> None:
        self.kind, self._engine, self._admin = KINDS[engine], engine, admin
        self._view = NamespaceView(namespace)
        self._kubelet = PlayedKubelet(admin)
        self.world = World(admin, self._view)
        self.namespace = namespace

    def plays(self, script: Script) -> None:
        """Let pods that start from now on follow a script."""
        self._kubelet.stages[self.namespace] = Stage(script)

    async def furnish(self) -> None:
        """Create the Dataset, its story over: the operator must not be there yet."""
        await self._admin.create(manifest(DATASET), self.namespace)
        over = {"status": given_status(DATASET)}
        await self._admin.merge(DATASET, self.namespace, NAMES[DATASET], over, sub="/status")

    async def begin(self, **scheduling: str) -> None:
        """Create the experiment."""
        found = manifest(EXPERIMENT)
        compute = SPECS[EXPERIMENT]["compute"] | {"resources": {"requests": ROOM}}
        found["spec"] = found["spec"] | {
            "compute": compute, "scheduling": {"engine": self._engine, **scheduling},
        }  # fmt: skip
        await self._admin.create(found, self.namespace)

    async def completed(self) -> Json:
        """Wait for the good end and return the status."""
        await self.world.until_condition(EXPERIMENT, "Complete", "True")
        return self.world.status(EXPERIMENT)

    async def ranks_run(self, attempt: int = 1) -> list[Json]:
        """Wait until both ranks of an attempt run and the status says so; return their pods."""
        await self.world.until(
            lambda: (
                self.world.status(EXPERIMENT).get("pods") == {"ready": 2, "total": 2}
                and len(self.ranks(attempt)) == 2
            ),
            f"both ranks of attempt {attempt} run",
        )
        return self.ranks(attempt)

    def ranks(self, attempt: int = 1) -> list[Json]:
        """Return the pods of an attempt, by rank."""
        labels = {COMPONENT_LABEL: "attempt", ATTEMPT_LABEL: str(attempt)}
        pods = [
            p for p in self._view.of("Pod") if labels.items() <= p["metadata"]["labels"].items()
        ]
        return sorted(pods, key=lambda pod: str(pod["metadata"]["name"]))

    def ready(self) -> str:
        """Return the reason of Ready."""
        return self._says("Ready", "reason")

    async def until_ready_says(self, reason: str) -> None:
        """Wait for the reason of Ready."""
        await self.world.until(lambda: self.ready() == reason, f"Ready says {reason}")

    async def until_told(self, condition: str, words: str) -> None:
        """Wait until the message of a condition has these words."""
        await self.world.until(
            lambda: words in self._says(condition, "message"), f"{condition} tells: {words}"
        )

    def _says(self, condition: str, field: str) -> str:
        conditions = self.world.status(EXPERIMENT).get("conditions") or ()
        return next((str(c[field]) for c in conditions if c["type"] == condition), "")

    async def child(self, attempt: int = 1) -> Json:
        """Wait for the child of an attempt and return it."""
        await self._seen(lambda: self._child(attempt) is not None, f"the child of {attempt}")
        found = self._child(attempt)
        assert found is not None
        return found

    def children(self) -> list[str]:
        """Return the names of the attempts' children that exist."""
        names = [str(one["metadata"]["name"]) for one in self._view.of(self.kind)]
        return sorted(name for name in names if name.startswith(f"{NAME}-a"))

    async def suspend(self, suspended: bool) -> None:
        """Start or stop the first attempt as its queue does."""
        change = {"spec": {"suspend": suspended}}
        await self._admin.merge(self.kind, self.namespace, attempt_job(NAME, 1), change)

    async def delete_child(self) -> None:
        """Delete the first attempt's child as somebody may."""
        await self._admin.delete(self.kind, self.namespace, attempt_job(NAME, 1))

    async def evict(self, pod: Json) -> None:
        """Evict a pod as a drain does."""
        name = pod["metadata"]["name"]
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
        await self._admin.ask("POST", path_of("Pod", self.namespace, name) + "/eviction", body)

    async def until_nothing_is_left(self) -> None:
        """Wait until no child of any kind exists, nor what its engine made."""
        await self.world.until_no_children("Job", "Pod", self.kind)
        for kind in ("Service", "ConfigMap"):
            await self._seen_live(kind)

    async def watch(self) -> None:
        """Bring what happens to the view and the kubelet, until cancelled."""
        kinds = {*SEEN_KINDS, self.kind}
        async with asyncio.TaskGroup() as watches:
            for kind in kinds:
                watches.create_task(self._watch(kind))

    async def _watch(self, kind: str) -> None:
        while True:
            with suppress(RefusedByServerError, aiohttp.ClientError):
                async for event in self._admin.changes(kind):
                    self._told(kind, event)
            await asyncio.sleep(0.2)

    def _told(self, kind: str, event: Json) -> None:
        if (event["object"].get("metadata") or {}).get("namespace") == self.namespace:
            if kind == "Pod":
                self._kubelet.seen(event)
            self._view.seen(event)

    def _child(self, attempt: int) -> Json | None:
        return self._view.objects.get((self.kind, attempt_job(NAME, attempt)))

    async def _seen(self, holds: Callable[[], object], what: str) -> None:
        await self.world.until(holds, what)

    async def _seen_live(self, kind: str) -> None:
        async with asyncio.timeout(60):
            while any(  # noqa: ASYNC110 - the kind is not watched
                one["metadata"]["name"].startswith(NAME)
                for one in await self._admin.list(kind, self.namespace)
            ):
                await asyncio.sleep(0.5)


@asynccontextmanager
async def real_engine(
    api: BareApi, engine: Engine, script: Script, folder: Path, monkeypatch: Any
) -> AsyncIterator[RealEngine]:
    """Furnish a namespace, start an operator for it, and look at its log at the end."""
    namespace = f"lab-{secrets.token_hex(4)}"
    await asyncio.to_thread(api.kubectl, "create", "namespace", namespace)
    enforced = "pod-security.kubernetes.io/enforce=restricted"
    await asyncio.to_thread(api.kubectl, "label", "namespace", namespace, enforced)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(upstream_session(str(api.authority)))
        lab = RealEngine(engine, AdminApi(api.address, api.token(), session), namespace)
        lab.plays(script)
        await lab.furnish()
        watching = asyncio.create_task(lab.watch())
        stack.callback(watching.cancel)
        operator = await stack.enter_async_context(
            played_operator(
                api,
                folder,
                monkeypatch,
                job_sets="true",
                volcano="true",
                namespaces=json.dumps([namespace]),
            )
        )
        try:
            yield lab
        finally:
            if watching.done():
                watching.result()
        assert operator.complaints() == []
