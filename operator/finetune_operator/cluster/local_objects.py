"""Keeps the objects of a local cluster in memory and as one JSON file each.

It knows what an API server does to any object: UID, generation, resource version, conflicts,
owner references, watches. What an object means is decided by others.
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from finetune_operator.cluster.cluster_protocol import Change
from finetune_operator.errors import AbsentError, ConflictError, ExpiredError
from finetune_operator.observed import Manifest

KEPT_CHANGES = 4000
"""Changes that a watch may still begin from."""
BOOKMARK_SECONDS = 20.0
POD = "Pod"


@dataclass(frozen=True)
class ObjectKey:
    """Where an object lies."""

    kind: str
    namespace: str
    name: str


def object_key(item: Manifest) -> ObjectKey:
    """Return the key of an object that carries its namespace."""
    metadata = item["metadata"]
    return ObjectKey(item["kind"], metadata["namespace"], metadata["name"])


def timestamp() -> str:
    """Return the present moment as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class _Watch:
    """One reader of changes of a kind."""

    kind: str
    queue: asyncio.Queue[Change] = field(default_factory=asyncio.Queue)


class LocalObjects:
    """All objects of one work directory, for one event loop; only `changes` waits."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._items: dict[ObjectKey, Manifest] = {}
        self._version = 0
        self._history: deque[tuple[int, Change]] = deque(maxlen=KEPT_CHANGES)
        self._watches: list[_Watch] = []
        self._listeners: list[Callable[[Change], None]] = []
        self._load()

    @property
    def version(self) -> str:
        """Return the resource version of the newest change."""
        return str(self._version)

    def listen(self, listener: Callable[[Change], None]) -> None:
        """Call `listener` with every change of any kind, at once."""
        self._listeners.append(listener)

    def read(self, key: ObjectKey) -> Manifest | None:
        """Return a copy of the object, or None."""
        return copy.deepcopy(self._items.get(key))

    def items(self, kind: str) -> list[Manifest]:
        """Return copies of all objects of a kind, in order of their names."""
        found = sorted((k for k in self._items if k.kind == kind), key=lambda k: k.name)
        return [copy.deepcopy(self._items[key]) for key in found]

    def create(self, item: Manifest) -> Manifest:
        """Store a new object with UID, time and versions; ConflictError when the name exists."""
        created = copy.deepcopy(item)
        key = object_key(created)
        if key in self._items:
            raise ConflictError(f"{key.kind} {key.name} already exists", status=409)
        created["metadata"].update(
            uid=str(uuid.uuid4()), generation=1, creationTimestamp=timestamp()
        )
        self._store("ADDED", created)
        if self._is_orphan(created):
            self.delete(key)
        return copy.deepcopy(created)

    def replace(self, item: Manifest) -> Manifest:
        """Store a newer form of an object; a stale resource version is a ConflictError.

        The generation rises when anything but metadata and status differs. An equal object is
        left alone, its version included.
        """
        key = object_key(item)
        present = self._items.get(key)
        if present is None:
            raise AbsentError(f"{key.kind} {key.name} does not exist", status=404)
        given = item["metadata"].get("resourceVersion", "")
        if given and given != present["metadata"]["resourceVersion"]:
            raise ConflictError(f"{key.kind} {key.name} changed since it was read", status=409)
        newer = copy.deepcopy(item)
        for name in ("uid", "generation", "creationTimestamp", "resourceVersion"):
            newer["metadata"][name] = present["metadata"][name]
        if newer == present:
            return copy.deepcopy(present)
        newer["metadata"]["generation"] += int(_wanted(newer) != _wanted(present))
        self._store("MODIFIED", newer)
        return copy.deepcopy(newer)

    def change(self, key: ObjectKey, update: Callable[[Manifest], None]) -> Manifest | None:
        """Let `update` edit the newest form of an object; None when it does not exist."""
        item = self.read(key)
        if item is None:
            return None
        update(item)
        return self.replace(item)

    def delete(self, key: ObjectKey) -> None:
        """Remove an object and what it owns; a pod is only marked, its runner removes it."""
        item = self._items.get(key)
        if item is None:
            return
        if key.kind == POD:
            if "deletionTimestamp" not in item["metadata"]:
                self.change(key, lambda pod: pod["metadata"].update(deletionTimestamp=timestamp()))
            return
        self.remove(key)
        owned = [k for k, other in self._items.items() if _is_owned(other, item)]
        for dependent in owned:
            self.delete(dependent)

    def remove(self, key: ObjectKey) -> None:
        """Forget one object and nothing else."""
        item = self._items.pop(key, None)
        if item is not None:
            self._path(key).unlink(missing_ok=True)
            self._announce("DELETED", item)

    async def changes(self, kind: str, *, since: str) -> AsyncIterator[Change]:
        """Yield changes of a kind after a version, bookmarks in silence; never ends."""
        watch = _Watch(kind)
        for change in self._missed(kind, since):
            watch.queue.put_nowait(change)
        self._watches.append(watch)
        try:
            while True:
                yield await self._next(watch)
        finally:
            self._watches.remove(watch)

    async def _next(self, watch: _Watch) -> Change:
        try:
            async with asyncio.timeout(BOOKMARK_SECONDS):  # wait_for loses cancellations
                return await watch.queue.get()
        except TimeoutError:
            return Change("BOOKMARK", {"metadata": {"resourceVersion": self.version}})

    def _missed(self, kind: str, since: str) -> list[Change]:
        start = int(since or 0)
        oldest = self._history[0][0] if self._history else self._version + 1
        if start > self._version or start + 1 < oldest:
            raise ExpiredError(f"version {since} is too old to watch from", status=410)
        return [
            change
            for version, change in self._history
            if version > start and change.item["kind"] == kind
        ]

    def _store(self, verb: Literal["ADDED", "MODIFIED"], item: Manifest) -> None:
        item["metadata"]["resourceVersion"] = str(self._version + 1)
        key = object_key(item)
        self._items[key] = item
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(item, indent=1), encoding="utf-8")
        os.replace(part, path)
        self._announce(verb, item)

    def _announce(self, verb: Literal["ADDED", "MODIFIED", "DELETED"], item: Manifest) -> None:
        self._version += 1
        seen = copy.deepcopy(item)
        seen["metadata"]["resourceVersion"] = str(self._version)
        change = Change(verb, seen)
        self._history.append((self._version, change))
        for watch in self._watches:
            if watch.kind == item["kind"]:
                watch.queue.put_nowait(Change(verb, copy.deepcopy(seen)))
        for listener in self._listeners:
            listener(change)

    def _is_orphan(self, item: Manifest) -> bool:
        owners = item["metadata"].get("ownerReferences", [])
        uids = {other["metadata"]["uid"] for other in self._items.values()}
        return bool(owners) and not any(owner["uid"] in uids for owner in owners)

    def _path(self, key: ObjectKey) -> Path:
        return self._folder / key.kind.lower() / key.namespace / f"{key.name}.json"

    def _load(self) -> None:
        for path in sorted(self._folder.rglob("*.json")):
            item: Manifest = json.loads(path.read_text(encoding="utf-8"))
            self._items[object_key(item)] = item
            self._version = max(self._version, int(item["metadata"]["resourceVersion"]))


def _wanted(item: Manifest) -> dict[str, Any]:
    return {name: part for name, part in item.items() if name not in ("metadata", "status")}


def _is_owned(item: Manifest, owner: Manifest) -> bool:
    uid = owner["metadata"]["uid"]
    return any(o["uid"] == uid for o in item["metadata"].get("ownerReferences", []))
