"""What the harness sees and does in one namespace: a live view of it, and the user's hands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from builders import NAMES, SPECS
from faults.admin_api import AdminApi, Json, RefusedByServerError
from finetune_api.names import API_VERSION, ATTEMPT_LABEL, COMPONENT_LABEL, PLURALS

SEEN_KINDS = ("Job", "Pod", *PLURALS)
PATIENCE_SECONDS = 150.0


class NotReachedError(Exception):
    """The story did not get where it should."""


def manifest(kind: str) -> Json:
    """Return an object of ours with its usual name and spec."""
    named = {"name": NAMES[kind]}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": named, "spec": SPECS[kind]}


class NamespaceView:
    """The objects of a namespace as the watches of the harness bring them."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.objects: dict[tuple[str, str], Json] = {}
        self.listeners: list[Callable[[Json], None]] = []
        self._news = asyncio.Event()

    def seen(self, event: Json) -> None:
        """Take in an event."""
        found = event["object"]
        key = (found["kind"], found["metadata"]["name"])
        if event["type"] == "DELETED":
            self.objects.pop(key, None)
        else:
            self.objects[key] = found
        for listener in self.listeners:
            listener(event)
        self._news.set()

    def of(self, *kinds: str) -> list[Json]:
        """Return the objects of some kinds."""
        return [found for (kind, _), found in self.objects.items() if kind in kinds]

    async def until(self, holds: Callable[[], object], what: str) -> None:
        """Wait until something is seen; raises NotReachedError."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not holds():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise NotReachedError(f"not reached: {what}") from None


class World:
    """What a story may do and wait for."""

    def __init__(self, api: AdminApi, view: NamespaceView) -> None:
        self._api, self._view = api, view
        self.namespace = view.namespace
        self.until = view.until

    async def create(self, kind: str) -> None:
        """Create an object of ours."""
        await self._api.create(manifest(kind), self.namespace)

    async def change(self, kind: str, change: Json) -> None:
        """Edit an object; one that is gone is not there to be edited."""
        with suppress(RefusedByServerError):
            await self._api.merge(kind, self.namespace, NAMES[kind], change)

    async def delete(self, kind: str) -> None:
        """Delete an object of ours."""
        await self._api.delete(kind, self.namespace, NAMES[kind])

    async def delete_namespace(self) -> None:
        """Delete the namespace and wait until nothing is left in it."""
        await self._api.ask("DELETE", f"/api/v1/namespaces/{self.namespace}")
        await self.until(lambda: not self._view.objects, "the namespace is empty")

    def status(self, kind: str) -> Json:
        """Return the status of an object of ours, {} without one."""
        found = self._view.objects.get((kind, NAMES[kind])) or {}
        status: Json = found.get("status") or {}
        return status

    async def until_condition(self, kind: str, name: str, wanted: str) -> None:
        """Wait for a condition of the present generation."""

        def holds() -> bool:
            found = self._view.objects.get((kind, NAMES[kind])) or {}
            conditions = (found.get("status") or {}).get("conditions") or ()
            return any(
                c["type"] == name and c["status"] == wanted
                and c.get("observedGeneration") == found["metadata"]["generation"]
                for c in conditions
            )  # fmt: skip

        await self.until(holds, f"{kind} {name}={wanted}")

    async def until_pod(self, component: str, attempt: int) -> None:
        """Wait until a pod of an attempt runs."""

        def holds() -> bool:
            return any(
                pod["metadata"]["labels"].get(COMPONENT_LABEL) == component
                and pod["metadata"]["labels"].get(ATTEMPT_LABEL) == str(attempt)
                and (pod.get("status") or {}).get("phase") == "Running"
                for pod in self._view.of("Pod")
            )

        await self.until(holds, f"a pod of {component} {attempt} runs")

    async def until_no_children(self, *kinds: str) -> None:
        """Wait until Jobs and Pods are gone; other kinds are judged at the end."""
        await self.until(lambda: not self._view.of(*(kinds or ("Job", "Pod"))), "no child is left")
