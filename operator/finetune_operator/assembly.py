"""Puts the parts together that a cluster and a laptop share: cache, queue, informers, workers.

`process` adds what only a real cluster needs; `finetune run` uses this as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from finetune_operator.cluster.cluster_protocol import Cluster, Resource
from finetune_operator.cluster.resources import JOB_SETS, JOBS, OURS, PODS
from finetune_operator.gather import Gather
from finetune_operator.informers import (
    CHILD_LABELS,
    ChildSink,
    Informer,
    ObjectSink,
    OptionalInformer,
)
from finetune_operator.object_cache import ObjectCache
from finetune_operator.observed import Policy
from finetune_operator.progress_pull import ProgressPull
from finetune_operator.reconciler import Reconciler
from finetune_operator.work_queue import WorkQueue


class Assembly:
    """One cache, one queue, and everything that reads or feeds them."""

    def __init__(
        self, cluster: Cluster, policy: Policy, *, fence: Callable[[], int | None] = lambda: None,
        progress_seconds: float = 10.0,
    ) -> None:  # fmt: skip
        self._cluster = cluster
        self._child_kinds: dict[Resource, type[Informer]] = {JOBS: Informer, PODS: Informer}
        if JOB_SETS.kind in policy.optional_kinds:
            self._child_kinds[JOB_SETS] = OptionalInformer
        self.cache, self.queue = ObjectCache(), WorkQueue()
        self.sinks = {kind: ObjectSink(kind, self.cache, self.queue) for kind in OURS}
        gather = Gather(cluster, self.cache, policy=policy, fence=fence)
        self.reconciler = Reconciler(cluster, gather, self.cache, self.queue)
        self.progress = ProgressPull(
            cluster, self.cache, self.queue, active=lambda: self.reconciler.active,
            writes=self.reconciler.status_writes, interval_seconds=progress_seconds,
        )  # fmt: skip

    def child_informers(
        self, views: Mapping[str, Cluster], heard: Callable[[str, str], Callable[[], None]]
    ) -> list[Informer]:
        """Return one informer per child kind and namespace; '' stands for all namespaces."""
        return [
            informer(
                view, resource, ChildSink(resource.kind, self.cache, self.queue), scope=scope,
                labels=CHILD_LABELS, heard=heard(resource.plural, scope),
            )
            for resource, informer in self._child_kinds.items()
            for scope, view in views.items()
        ]  # fmt: skip

    def object_informers(self) -> list[Informer]:
        """Return informers of our own kinds, for where kopf does not bring them."""
        return [Informer(self._cluster, OURS[kind], sink) for kind, sink in self.sinks.items()]

    @asynccontextmanager
    async def running(self, *, workers: int = 4) -> AsyncIterator[None]:
        """Run everything without kopf, Lease and audit: all lists first, then the workers.

        An error that ends a part ends the block.
        """
        informers = self.child_informers(
            {"": self._cluster}, lambda _resource, _scope: lambda: None
        )
        informers += self.object_informers()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(informer.run()) for informer in informers]
            tasks.append(group.create_task(self.progress.run()))
            for informer in informers:
                await informer.listed.wait()
            tasks += [group.create_task(self.reconciler.work()) for _ in range(workers)]
            self.queue.open()
            try:
                yield
            finally:
                self.queue.close()
                for task in tasks:
                    task.cancel()
