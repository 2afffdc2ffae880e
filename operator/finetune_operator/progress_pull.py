"""Asks rank 0 of every active run, and the pod of every other active Job, how far it is.

The answer is untrusted input: its size is bounded by the cluster seam, its shape by the model,
and an answer that speaks of another object is thrown away.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from finetune_api.reported_values import read_report
from finetune_api.run_progress import Progress
from finetune_operator import metrics
from finetune_operator.child_facts import INDEX_ANNOTATION
from finetune_operator.cluster.cluster_protocol import Cluster
from finetune_operator.errors import ClusterError
from finetune_operator.object_cache import ObjectCache
from finetune_operator.observed import Key, Manifest
from finetune_operator.status_writes import StatusWrites
from finetune_operator.work_queue import Lane, WorkQueue

AT_ONCE = 32
"""Questions in flight."""
WRITES_PER_SECOND = 10.0
"""Progress may use a quarter of the write budget."""

log = structlog.get_logger()


class ProgressPull:
    """Pulls progress of the active keys into the cache, and wakes those that moved."""

    def __init__(
        self, cluster: Cluster, cache: ObjectCache, queue: WorkQueue, *,
        active: Callable[[], set[Key]], writes: StatusWrites, interval_seconds: float = 10.0,
    ) -> None:  # fmt: skip
        self._cluster, self._cache, self._queue = cluster, cache, queue
        self._active, self._writes, self._interval = active, writes, interval_seconds
        self._limit = asyncio.Semaphore(AT_ONCE)

    async def run(self) -> None:
        """Pull every interval until cancelled; more runs than the budget allows stretch it."""
        while True:
            started = time.monotonic()
            active = list(self._active())
            self._writes.share_budget(len(active), WRITES_PER_SECOND)
            await asyncio.gather(*(self.pull(key) for key in active))
            interval = max(self._interval, len(active) / WRITES_PER_SECOND)
            await asyncio.sleep(max(0.0, started + interval - time.monotonic()))

    async def pull(self, key: Key) -> None:
        """Ask the running pods of `key` that speak for their Jobs."""
        for pod in self._spokesmen(key):
            async with self._limit:
                await self._ask(key, pod)

    async def _ask(self, key: Key, pod: Manifest) -> None:
        try:
            told = read_report(Progress, await self._cluster.fetch_progress(pod))
        except ClusterError:
            metrics.PROGRESS_PULLS.labels("unreachable").inc()
            return
        except ValueError:
            metrics.PROGRESS_PULLS.labels("malformed").inc()
            log.warning("progress is malformed", key=key)
            return
        uid, _ = self._cache.version(key) or ("", "")
        if told.run.partition("/")[0] != uid:
            metrics.PROGRESS_PULLS.labels("foreign").inc()
            return
        metrics.PROGRESS_PULLS.labels("answered").inc()
        pod_uid = pod["metadata"]["uid"]
        if self._cache.progress(pod_uid) != told:
            self._cache.store_progress(pod_uid, told)
            self._queue.add(key, lane=Lane.PATIENT)

    def _spokesmen(self, key: Key) -> list[Manifest]:
        """Return the running pods of `key` that speak for their Job: rank 0, or the only one."""
        pods = (c.manifest() for c in self._cache.children(key, "Pod") if not c.gone)
        return [pod for pod in pods if _speaks(pod)]


def _speaks(pod: Manifest) -> bool:
    index = pod["metadata"].get("annotations", {}).get(INDEX_ANNOTATION, "0")
    status = pod["status"]
    return bool(index == "0" and status.get("phase") == "Running" and status.get("podIP"))
