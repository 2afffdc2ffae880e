"""Posts Kubernetes Events on transitions, after the status that tells of them was written.

An event is a courtesy: it is de-duplicated per object, waits until the children are made that
others wait for, and is dropped when the server is busy.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict

import structlog

from finetune_api.names import API_VERSION, FIELD_MANAGER
from finetune_operator.cluster.cluster_protocol import Cluster
from finetune_operator.errors import ClusterError
from finetune_operator.observed import Event, Key, Manifest

LONGEST_MESSAGE = 1024
LONGEST_SECONDS = 30.0
"""A worker spends no more on the events of one turn."""

log = structlog.get_logger()


class Events:
    """Posts each event of an object once in a row."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._last: dict[Key, Event] = {}
        self._due: defaultdict[Key, list[tuple[str, Event]]] = defaultdict(list)

    def add(self, key: Key, uid: str, events: tuple[Event, ...]) -> None:
        """Keep what is new until it is posted."""
        for event in events:
            if self._last.get(key) != event:
                self._last[key] = event
                self._due[key].append((uid, event))

    async def post(self, key: Key) -> None:
        """Post what was added; a refusal is logged and forgotten."""
        for uid, event in self._due.pop(key, ()):
            try:
                async with asyncio.timeout(LONGEST_SECONDS):
                    await self._cluster.post_event(self._manifest(key, uid, event))
            except (ClusterError, TimeoutError) as error:
                log.info("event dropped", key=key, reason=event.reason, error=str(error))

    def forget(self, key: Key) -> None:
        """Drop what is remembered of a deleted object."""
        self._last.pop(key, None)
        self._due.pop(key, None)

    def _manifest(self, key: Key, uid: str, event: Event) -> Manifest:
        now = self._cluster.now().strftime("%Y-%m-%dT%H:%M:%SZ")
        text = f"{uid}{event.reason}{event.message}{now}"
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{key.name}.{digest}", "namespace": key.namespace},
            "involvedObject": {
                "apiVersion": API_VERSION, "kind": key.kind, "name": key.name,
                "namespace": key.namespace, "uid": uid,
            },
            "type": event.type,
            "reason": event.reason,
            "message": event.message[:LONGEST_MESSAGE],
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
            "source": {"component": FIELD_MANAGER},
            "reportingComponent": FIELD_MANAGER,
            "reportingInstance": FIELD_MANAGER,
        }  # fmt: skip
