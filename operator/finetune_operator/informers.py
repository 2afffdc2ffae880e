"""List and watch: keep one resource of one scope in the cache, and wake the keys it concerns.

Our own kinds come through kopf (`intake`) in a cluster and through an `Informer` locally; both
end in `ObjectSink`. Children always come through an `Informer`, as facts of about 1 KB.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Hashable
from typing import Protocol

import structlog

from finetune_api.names import FIELD_MANAGER, MANAGED_BY_LABEL
from finetune_operator import metrics
from finetune_operator.child_facts import project
from finetune_operator.cluster.cluster_protocol import Change, Cluster, Resource
from finetune_operator.errors import (
    ClusterError,
    CredentialsError,
    ExpiredError,
    NotServedError,
)
from finetune_operator.object_cache import ObjectCache
from finetune_operator.observed import Key, Manifest
from finetune_operator.work_queue import Lane, WorkQueue

CHILD_LABELS = f"{MANAGED_BY_LABEL}={FIELD_MANAGER}"
LONGEST_BACKOFF_SECONDS = 5.0
KIND_LOOK_SECONDS = 30.0
"""How often an optional kind is looked for."""

log = structlog.get_logger()


class Sink(Protocol):
    """Where an informer's news goes; no method waits or fails."""

    def known(self, scope: str) -> frozenset[Hashable]:
        """Return the identities believed to exist in a namespace, or everywhere for ''."""
        ...

    def seen(self, item: Manifest, *, lane: Lane) -> Hashable:
        """Take in an object and return its identity."""
        ...

    def vanished(self, identity: Hashable) -> None:
        """Take in that an object exists no more."""
        ...


class ObjectSink:
    """Takes objects of our kinds into the cache; wakes them and whoever waits for them."""

    def __init__(self, kind: str, cache: ObjectCache, queue: WorkQueue) -> None:
        self._kind, self._cache, self._queue = kind, cache, queue

    def known(self, scope: str) -> frozenset[Hashable]:
        """Return the cached keys of this kind in `scope`."""
        return frozenset(
            key for key in self._cache.known()
            if key.kind == self._kind and scope in ("", key.namespace)
        )  # fmt: skip

    def seen(self, item: Manifest, *, lane: Lane) -> Key:
        """Store the object and wake its key, unless this very version was known."""
        key = Key(self._kind, item["metadata"]["namespace"], item["metadata"]["name"])
        if self._cache.store(key, item):
            self._wake(key, lane)
        return key

    def vanished(self, identity: Hashable) -> None:
        """Forget the object; its key's next step finds nothing and ends."""
        assert isinstance(identity, Key)  # noqa: S101 - narrows what `known` and `seen` return
        self._cache.forget(identity)
        self._wake(identity, Lane.URGENT)

    def _wake(self, key: Key, lane: Lane) -> None:
        self._queue.add(key, lane=lane)
        for waiter in self._cache.waiters(key):
            self._queue.add(waiter, lane=lane)


class ChildSink:
    """Takes children into the cache as facts and wakes their owners."""

    def __init__(self, kind: str, cache: ObjectCache, queue: WorkQueue) -> None:
        self._kind, self._cache, self._queue = kind, cache, queue

    def known(self, scope: str) -> frozenset[Hashable]:
        """Return the cached children of this kind in `scope`."""
        return frozenset(
            key for key in self._cache.living(self._kind) if scope in ("", key[1])
        )  # fmt: skip

    def seen(self, item: Manifest, *, lane: Lane) -> tuple[str, str, str]:
        """Store the child's facts and wake its owner."""
        facts = project(item)
        if (owner := self._cache.store_child(facts)) is not None:
            self._queue.add(owner, lane=lane)
        return self._kind, facts["metadata"]["namespace"], facts["metadata"]["uid"]

    def vanished(self, identity: Hashable) -> None:
        """Mark the child as gone and wake its owner."""
        assert isinstance(identity, tuple)  # noqa: S101 - narrows what `known` and `seen` return
        if (owner := self._cache.forget_child(identity)) is not None:
            self._queue.add(owner)


class Informer:
    """Lists, then watches for ever; lists again when the watch is too old to go on."""

    def __init__(
        self, cluster: Cluster, resource: Resource, sink: Sink, *, scope: str = "",
        labels: str = "", heard: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._cluster, self._resource, self._sink = cluster, resource, sink
        self._scope, self._labels, self._heard = scope, labels, heard
        self._failures, self._position = 0, ""
        self.listed = asyncio.Event()
        """listed is set once the first complete list is in the cache."""

    async def run(self) -> None:
        """Keep the cache current until cancelled; ends only with `CredentialsError`."""
        since: str | None = None
        while True:
            try:
                since = since or await self._list()
                since = await self._follow(since)
                self._failures = 0
            except CredentialsError:
                raise
            except ExpiredError as error:
                since = None
                await self._pause(error)
            except ClusterError as error:
                since = self._position if since else None
                await self._pause(error)

    async def _list(self) -> str:
        before, version = self._sink.known(self._scope), ""
        found: set[Hashable] = set()
        async for page in self._cluster.pages(self._resource, labels=self._labels):
            found.update(self._sink.seen(item, lane=Lane.PATIENT) for item in page.items)
            version = page.resource_version
        for identity in before - found:
            self._sink.vanished(identity)
        self._position = version
        self._heard()
        self.listed.set()
        return version

    async def _follow(self, since: str) -> str:
        """Watch until the server ends the watch; return the version to go on from."""
        self._position = since
        async for change in self._cluster.changes(self._resource, since=since, labels=self._labels):
            self._failures = 0
            self._position = change.resource_version or self._position
            self._heard()
            self._take_in(change)
        return self._position

    def _take_in(self, change: Change) -> None:
        if change.type == "BOOKMARK":
            return
        # What was just made is rarely news: its maker knows. Objects that wait come first.
        lane = Lane.PATIENT if change.type == "ADDED" else Lane.URGENT
        identity = self._sink.seen(change.item, lane=lane)
        if change.type == "DELETED":
            self._sink.vanished(identity)

    async def _pause(self, error: ClusterError) -> None:
        metrics.WATCH_RESTARTS.labels(self._resource.plural, error.reason).inc()
        self._failures += 1
        longest = min(LONGEST_BACKOFF_SECONDS, 2.0 ** min(self._failures - 1, 5))
        if isinstance(error, ExpiredError) and self._failures == 1:
            return
        log.warning("watch begins again", resource=self._resource.plural, error=str(error))
        await asyncio.sleep(random.uniform(longest / 2, longest))  # noqa: S311 - spreads reconnects


class OptionalInformer(Informer):
    """Of a kind that the cluster may not serve: until it does, nothing of that kind exists."""

    async def _pause(self, error: ClusterError) -> None:
        if isinstance(error, NotServedError):
            self._heard()
            self.listed.set()
            await asyncio.sleep(KIND_LOOK_SECONDS)
        else:
            await super()._pause(error)
