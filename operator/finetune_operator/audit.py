"""Compares the cache with the server: ghosts, missed changes, deaf watches; opens the barrier.

kopf gives no DELETED event for what vanished while its watch was broken, hides its bookmarks,
and may end a watch silently. What the operator knows of its own kinds is therefore checked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from finetune_operator import metrics
from finetune_operator.cluster.cluster_protocol import Cluster
from finetune_operator.cluster.resources import OURS
from finetune_operator.errors import ClusterError, CredentialsError, UnavailableError
from finetune_operator.informers import ObjectSink
from finetune_operator.object_cache import ObjectCache, is_later
from finetune_operator.observed import Key
from finetune_operator.work_queue import Lane

INTERVAL_SECONDS = 180.0
GRACE_SECONDS = 30.0
"""A change younger than this may still be on its way through the watch."""
RETRY_SECONDS = 2.0
BARRIER_LOOK_SECONDS = 0.2
BARRIER_PATIENCE_LOOKS = 100
"""After so many looks the keys still missing are read live."""

log = structlog.get_logger()


class Audit:
    """Looks at the server's truth now and then, by metadata only."""

    def __init__(self, cluster: Cluster, cache: ObjectCache, sinks: dict[str, ObjectSink]) -> None:
        self._cluster, self._cache, self._sinks = cluster, cache, sinks
        self._missed: frozenset[Key] = frozenset()
        self.is_deaf = False
        """is_deaf: the same key was missed in two passes in a row."""

    async def run(self) -> None:
        """Audit every three minutes until cancelled; an unreachable server is no finding."""
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            try:
                await self.look()
            except CredentialsError:
                raise
            except ClusterError as error:
                log.warning("audit put off", error=str(error))

    async def look(self) -> None:
        """Make one pass: forget ghosts, take in what was missed, judge the watches."""
        listed = await self.list_versions()
        for ghost in self._cache.known() - listed.keys():
            if await self._read(ghost):
                log.warning("ghost forgotten", key=ghost)
        suspects = self._behind(listed)
        if suspects:
            await asyncio.sleep(GRACE_SECONDS)
        missed = frozenset(key for key, held in suspects.items() if self._version(key) == held)
        for key in missed:
            metrics.AUDIT_MISSES.labels(key.kind).inc()
            log.warning("change missed by the watch", key=key)
            await self._read(key)
        self.is_deaf = bool(missed & self._missed)
        self._missed = missed

    async def list_versions(self) -> dict[Key, str]:
        """Return the resourceVersion of every object of our kinds."""
        versions = {}
        for kind, resource in OURS.items():
            async for page in self._cluster.pages(resource, metadata_only=True):
                for item in page.items:
                    facts = item["metadata"]
                    key = Key(kind, facts["namespace"], facts["name"])
                    versions[key] = facts["resourceVersion"]
        return versions

    async def complete_cache(self) -> None:
        """Return when everything that exists is in the cache, however long the server is away."""
        while True:
            try:
                await self.barrier(list(await self.list_versions()))
            except UnavailableError as error:
                log.warning("the start is put off", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    async def barrier(self, expected: Sequence[Key]) -> None:
        """Return when every expected key is in the cache or found gone by a live read."""
        missing = [key for key in expected if self._version(key) is None]
        for _ in range(BARRIER_PATIENCE_LOOKS):
            if not missing:
                return
            await asyncio.sleep(BARRIER_LOOK_SECONDS)
            missing = [key for key in missing if self._version(key) is None]
        for key in missing:
            log.warning("listed object did not arrive through the watch", key=key)
            await self._read(key)

    def _behind(self, listed: dict[Key, str]) -> dict[Key, str | None]:
        """Return the keys that the server lists in a later version than is cached, with that one.

        A cached version may be later than the list, which takes its time.
        """
        held = {key: self._version(key) for key in listed}
        return {key: was for key, was in held.items() if was is None or is_later(listed[key], was)}

    def _version(self, key: Key) -> str | None:
        known = self._cache.version(key)
        return known[1] if known else None

    async def _read(self, key: Key) -> bool:
        """Bring one key up to date by a live read; return whether it turned out to be gone."""
        live = await self._cluster.read(OURS[key.kind], key.namespace, key.name)
        if live is None:
            self._sinks[key.kind].vanished(key)
            return True
        self._sinks[key.kind].seen(live, lane=Lane.PATIENT)
        return False
