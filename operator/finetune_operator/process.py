"""The operator process: what starts in which order, which signal ends it, what stops in which.

Nothing is planned before the caches are complete and this process leads. Every long-running task
starts before kopf, because kopf cancels at its end whatever was started after it.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import structlog

from finetune_operator import intake, metrics
from finetune_operator.assembly import Assembly
from finetune_operator.audit import Audit
from finetune_operator.cluster.api_transport import ApiTransport
from finetune_operator.cluster.kubernetes_cluster import KubernetesCluster
from finetune_operator.cluster.resources import JOB_SETS, OURS, POD_GROUPS
from finetune_operator.errors import ClusterError, OperatorError
from finetune_operator.health import Health
from finetune_operator.leader import Leader
from finetune_operator.observed import Policy
from finetune_operator.settings import Settings
from finetune_operator.write_budget import TokenBucket

KINDS_LOOK_SECONDS = 5.0
LAST_STEP_SECONDS = 10.0
"""Time for workers to finish their key when the process stops."""
ENDING_SECONDS = 20.0
"""Time for everything to end: kopf 1.45 may swallow the cancellation of a watch whose request is
under way, and then waits for it without end while /livez finds nothing wrong."""

log = structlog.get_logger()


async def run(settings: Settings) -> int:
    """Run until a signal or a fatal error; return the exit code."""
    async with AsyncExitStack() as stack:
        stop, failures = asyncio.Event(), []
        _stop_on_signals(stop)
        operator = await stack.enter_async_context(_operator(settings))
        try:
            await operator.run(stop)
        except* OperatorError as errors:
            failures = [str(error) for error in errors.exceptions]
            log.error("the operator ends", errors=failures)
    return 1 if failures else 0


def policy_of(settings: Settings) -> Policy:
    """Return the part of the settings that decisions depend on."""
    storage = settings.default_storage
    return Policy(
        image=settings.trainer_image,
        default_location=storage,
        image_pull_policy=settings.image_pull_policy,
        models_allowed=settings.models_allowed,
        addresses_allowed=settings.addresses_allowed,
        hub_endpoint=settings.hub_endpoint,
        visitor_namespaces=(settings.lease_namespace, *settings.monitoring_namespaces),
        node_lost_seconds=settings.node_lost_seconds,
        gpu_hour_prices=settings.gpu_hour_prices,
        currency=settings.currency,
        optional_kinds=frozenset(
            resource.kind
            for resource, is_on in ((JOB_SETS, settings.job_sets), (POD_GROUPS, settings.volcano))
            if is_on
        ),
        network_profiles=settings.network_profiles,
    )


class Operator:
    """All parts of the process, made but not started."""

    def __init__(
        self, settings: Settings, transport: ApiTransport, cluster: KubernetesCluster
    ) -> None:
        self._settings, self._transport, self._cluster = settings, transport, cluster
        self._assembly = Assembly(
            cluster, policy_of(settings), fence=lambda: self._leader.fence,
            progress_seconds=settings.progress_interval_seconds,
        )  # fmt: skip
        self._audit = Audit(cluster, self._assembly.cache, self._assembly.sinks)
        self.health = Health(self._assembly.queue, is_deaf=lambda: self._audit.is_deaf)
        self._leader = Leader(
            cluster,
            namespace=settings.lease_namespace,
            name=settings.lease_name,
            identity=f"{settings.identity or socket.gethostname()}_{secrets.token_hex(4)}",
            renewed=self.health.answered,
        )
        self._leader.pod = settings.identity
        cluster.guard(self._leader.must_lead)

    async def run(self, stop: asyncio.Event) -> None:
        """Start everything in order, wait for `stop` or the end of a part, stop in order."""
        async with _interruptible(stop) as started:
            await started(self._kinds_are_served())
            self.health.is_ready = True  # a standby that waits for the Lease is ready
            await started(self._leader.acquire())
        if stop.is_set():
            await self._leader.release()
            return
        self.health.is_ready = False
        async with asyncio.TaskGroup() as group:
            await self._lead(group, stop)
        await self._leader.release()  # not reached after an error: another may lead already

    async def _lead(self, group: asyncio.TaskGroup, stop: asyncio.Event) -> None:
        """Fill the caches, open the barrier, work until `stop`, then finish what was begun."""
        background = [group.create_task(part) for part in self._background()]
        workers = [
            group.create_task(self._assembly.reconciler.work())
            for _ in range(self._settings.workers)
        ]
        kopf_stop, kopf_ready = asyncio.Event(), asyncio.Event()
        stopping = group.create_task(stop.wait())
        opening = group.create_task(self._open_barrier(kopf_ready, stop))
        kopf = group.create_task(self._watch_ours(kopf_ready, kopf_stop))
        try:
            await asyncio.wait([stopping, kopf], return_when=asyncio.FIRST_COMPLETED)
        finally:  # cancelled, when a part of the group has failed
            end_in_time()
        log.info("stopping")
        self._assembly.queue.close()
        await asyncio.wait(workers, timeout=LAST_STEP_SECONDS)
        kopf_stop.set()
        for task in (opening, stopping, *workers, *background):
            task.cancel()
        await kopf
        if not stop.is_set():
            raise OperatorError("kopf ended by itself")

    def _background(self) -> list[Coroutine[Any, Any, None]]:
        views = {
            name or "": view
            for name, view in zip(
                self._settings.namespaces or ("",), self._cluster.scopes(), strict=True
            )
        }
        self._informers = self._assembly.child_informers(views, self.health.heard)
        return [
            self._leader.keep(),
            self._audit.run(),
            self._assembly.progress.run(),
            *(informer.run() for informer in self._informers),
        ]

    async def _watch_ours(self, ready: asyncio.Event, stop: asyncio.Event) -> None:
        for informer in self._informers:
            await informer.listed.wait()
        await intake.run(
            self._assembly.sinks, self._transport.connection,
            namespaces=self._settings.namespaces, ready=ready, stop=stop,
        )  # fmt: skip

    async def _open_barrier(self, kopf_ready: asyncio.Event, stop: asyncio.Event) -> None:
        """Let workers begin once everything that exists is known, fenced above all before us."""
        await kopf_ready.wait()
        _stop_on_signals(stop)  # kopf has put its own handlers in place of ours
        await self._audit.complete_cache()
        await self._leader.raise_above(self._assembly.cache.highest_fence())
        self.health.is_ready = True
        self._assembly.queue.open()
        log.info("working", objects=len(self._assembly.cache.known()), fence=self._leader.fence)

    async def _kinds_are_served(self) -> None:
        """Wait for the CRDs: a kind that comes after kopf's start would never be watched."""
        while True:
            try:
                missing = [kind for kind, r in OURS.items() if not await self._cluster.served(r)]
            except ClusterError as error:
                log.warning("waiting for the API server", error=str(error))
            else:
                self.health.answered()
                if not missing:
                    return
                log.warning("waiting for the CRDs to be installed", missing=missing)
            await asyncio.sleep(KINDS_LOOK_SECONDS)


@asynccontextmanager
async def _operator(settings: Settings) -> AsyncIterator[Operator]:
    """Yield the operator with its connections and its health port open."""
    metrics.INFO.labels(_release()).set(1)
    transport = await ApiTransport.connect(use_proxies=settings.use_proxies)
    cluster = KubernetesCluster(
        transport,
        namespaces=settings.namespaces,
        writes=TokenBucket(settings.writes_per_second, 2 * settings.writes_per_second),
        reads=TokenBucket(settings.reads_per_second, 2 * settings.reads_per_second),
    )
    operator = Operator(settings, transport, cluster)
    lag = asyncio.create_task(operator.health.sample_lag())
    server = await operator.health.serve(settings.health_address, settings.health_port)
    try:
        yield operator
    finally:
        lag.cancel()
        await server.cleanup()
        await cluster.close()


@asynccontextmanager
async def _interruptible(stop: asyncio.Event) -> AsyncIterator[Any]:
    """Yield a function that awaits a coroutine, or gives it up when `stop` is set."""
    stopping = asyncio.create_task(stop.wait())

    async def started(part: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(part)
        await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        else:
            task.cancel()

    try:
        yield started
    finally:
        stopping.cancel()


def end_in_time() -> None:
    """End the process after ENDING_SECONDS, should it still be there."""
    asyncio.get_running_loop().call_later(ENDING_SECONDS, _end_at_once)


def _end_at_once() -> None:
    left = sorted(task.get_name() for task in asyncio.all_tasks())
    log.warning("the process ends without what does not end", tasks=left)
    os._exit(1)


def _stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


def _release() -> str:
    try:
        return version("finetune-operator")
    except PackageNotFoundError:
        return "unknown"
