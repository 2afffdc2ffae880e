"""A cluster in memory for tests of the runtime: keeps objects, records writes, fails on demand."""

from __future__ import annotations

import asyncio
import copy
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from finetune_operator.cluster.cluster_protocol import Change, Page, Resource
from finetune_operator.cluster.resources import OURS, resource_named, resource_of
from finetune_operator.errors import AbsentError, ConflictError, ExpiredError
from finetune_operator.observed import ChildRef, Key, Manifest

Place = tuple[str, str, str]


class RecordingCluster:
    """Objects by kind, namespace and name; every write is noted in `writes`."""

    def __init__(self) -> None:
        self.objects: dict[Place, Manifest] = {}
        self.writes: list[tuple[str, str]] = []
        self.events: list[Manifest] = []
        self.failures: dict[str, list[Exception]] = defaultdict(list)
        self.feeds: dict[str, list[Change | Exception]] = defaultdict(list)
        self.lists = 0
        self.time = datetime(2026, 1, 1, tzinfo=UTC)
        self.answers: dict[str, bytes] = {}
        self.warnings: dict[str, str] = {}
        self.unserved: set[str] = set()
        self._version = 0

    def put(self, manifest: Manifest) -> Manifest:
        """Store an object as somebody else would, with a new version."""
        stored = copy.deepcopy(manifest)
        self._version += 1
        stored["metadata"].setdefault("uid", f"uid-{stored['metadata']['name']}")
        stored["metadata"]["resourceVersion"] = str(self._version)
        self.objects[self._place(stored)] = stored
        return stored

    def remove(self, manifest: Manifest) -> None:
        self.objects.pop(self._place(manifest), None)

    def fail_next(self, call: str, error: Exception) -> None:
        """Let the next call of this name raise `error`."""
        self.failures[call].append(error)

    def now(self) -> datetime:
        return self.time

    async def served(self, resource: Resource) -> bool:
        return resource.kind not in self.unserved

    async def read(self, resource: Resource, namespace: str, name: str) -> Manifest | None:
        self._maybe_fail("read")
        found = self.objects.get((resource.kind, namespace, name))
        return copy.deepcopy(found)

    async def pages(
        self, resource: Resource, *, labels: str = "", metadata_only: bool = False
    ) -> AsyncIterator[Page]:
        self.lists += 1
        self._maybe_fail("pages")
        found = [o for (kind, _, _), o in self.objects.items() if kind == resource.kind]
        yield Page(copy.deepcopy(found), str(self._version))

    async def changes(
        self, resource: Resource, *, since: str, labels: str = ""
    ) -> AsyncIterator[Change]:
        while self.feeds[resource.kind]:
            step = self.feeds[resource.kind].pop(0)
            if isinstance(step, Exception):
                raise step
            yield step
        await asyncio.Event().wait()

    async def create(self, child: Manifest) -> None:
        self._maybe_fail("create")
        if self._place(child) in self.objects:
            raise ConflictError("exists", status=409)
        self.writes.append(("create", child["metadata"]["name"]))
        resource_of(child)
        self.put(child)

    async def apply(self, child: Manifest, *, force: bool) -> Manifest:
        self._maybe_fail("apply")
        self.writes.append(("apply force" if force else "apply", child["metadata"]["name"]))
        resource_of(child)
        return self.put(child)

    async def delete(self, child: ChildRef) -> None:
        self._maybe_fail("delete")
        self.writes.append(("delete", child.name))
        kind = resource_named(child.api_version, child.kind).kind
        self.objects.pop((kind, child.namespace, child.name), None)

    async def write_status(self, key: Key, status: Manifest, *, resource_version: str) -> Manifest:
        self._maybe_fail("write_status")
        found = self.objects.get((OURS[key.kind].kind, key.namespace, key.name))
        if found is None:
            raise AbsentError("gone", status=404)
        if found["metadata"]["resourceVersion"] != resource_version:
            raise ConflictError("changed", status=409)
        self.writes.append(("status", key.name))
        return self.put({**found, "status": status})

    async def post_event(self, event: Manifest) -> None:
        self._maybe_fail("post_event")
        self.events.append(event)

    async def queue_about(self, child: ChildRef) -> str:
        return ""

    async def warning_about(self, child: ChildRef) -> str:
        return self.warnings.get(child.uid, "")

    async def fetch_progress(self, pod: Manifest) -> bytes:
        self._maybe_fail("fetch_progress")
        return self.answers[pod["metadata"]["name"]]

    async def create_lease(self, lease: Manifest) -> Manifest:
        self._maybe_fail("create_lease")
        if self._place(lease) in self.objects:
            raise ConflictError("exists", status=409)
        return self.put(lease)

    async def replace_lease(self, lease: Manifest) -> Manifest:
        self._maybe_fail("replace_lease")
        await asyncio.sleep(0)
        found = self.objects.get(self._place(lease))
        version = lease["metadata"]["resourceVersion"]
        if found is None or found["metadata"]["resourceVersion"] != version:
            raise ConflictError("changed", status=409)
        return self.put(lease)

    def _maybe_fail(self, call: str) -> None:
        if self.failures[call]:
            raise self.failures[call].pop(0)

    @staticmethod
    def _place(manifest: Manifest) -> Place:
        metadata: dict[str, Any] = manifest["metadata"]
        return manifest["kind"], metadata["namespace"], metadata["name"]


def expired() -> ExpiredError:
    return ExpiredError("too old", status=410)
