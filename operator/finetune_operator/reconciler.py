"""One step for one key: observe, plan, carry out, report. And the loop of a worker.

The step has no lock, because the queue never runs a key twice at once, and no memory, because
everything a later step needs stands in the status.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import perf_counter

import structlog

from finetune_operator import metrics
from finetune_operator.carrying_out import apply_child, delete_child
from finetune_operator.cluster.cluster_protocol import Cluster
from finetune_operator.cluster.resources import OURS
from finetune_operator.errors import (
    AbsentError,
    ConflictError,
    CredentialsError,
    LeadershipLostError,
    MalformedError,
    NameTakenError,
    OperatorError,
    RefusedError,
    UnavailableError,
)
from finetune_operator.events import Events
from finetune_operator.gather import absent_job
from finetune_operator.gathered_children import headway_seconds
from finetune_operator.object_cache import ObjectCache
from finetune_operator.object_series import ObjectSeries
from finetune_operator.observed import Key, Manifest, Observed, Plan
from finetune_operator.planners import plan, stalled
from finetune_operator.status_writes import StatusWrites
from finetune_operator.work_queue import Lane, WorkQueue

STEP_SECONDS = 30.0
"""A step that takes longer is ended and repeated."""
DELETE_LOOK_SECONDS = 10.0
"""What was deleted is looked at again: if it was said to be absent and is not, nothing wakes us."""
KINDS_LOOK_SECONDS = 60.0
"""A kind that the API server does not know yet is looked for this often: its CRD wakes nobody."""
HEADWAY_LOOK_SECONDS = 60.0
"""A Job that cannot get its pods is looked at this often: its events wake nobody."""
STALLED_REASONS: dict[type[OperatorError], str] = {
    NameTakenError: "NameTaken",
    RefusedError: "RefusedByServer",
    MalformedError: "InternalError",
}
"""Errors of carrying out that the user must see in the status, and under which reason."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Done:
    """What a step leaves to the next one of its turn."""

    written: bool
    """written: a new status was."""
    absent: str = ""
    """absent is the name of the next Job if nothing had it and the step made none."""


class Reconciler:
    """Observe, plan, carry out, report."""

    def __init__(
        self, cluster: Cluster, gather: Callable[..., Awaitable[Observed | None]],
        cache: ObjectCache, queue: WorkQueue,
    ) -> None:  # fmt: skip
        self._cluster, self._gather, self._cache, self._queue = cluster, gather, cache, queue
        self._events = Events(cluster)
        self._series = ObjectSeries()
        self.status_writes = StatusWrites()
        self.active: set[Key] = set()
        """active are the keys whose pods are asked for progress."""

    async def work(self) -> None:
        """Make steps until the queue is closed; raises only what must end the process."""
        while (key := await self._queue.take()) is not None:
            started = perf_counter()
            try:
                await self._turn(key)
                self._queue.finished(key)
            except (CredentialsError, LeadershipLostError, asyncio.CancelledError):
                self._queue.finished(key)
                raise
            except OperatorError as error:
                await self._repeat(key, error)
            except TimeoutError:
                await self._repeat(key, UnavailableError(f"step took over {STEP_SECONDS:.0f} s"))
            except Exception:
                log.exception("step failed by a bug", key=key)
                await self._repeat(key, MalformedError("internal error; see the operator's log"))
            metrics.RECONCILE_SECONDS.labels(key.kind).observe(perf_counter() - started)

    async def _turn(self, key: Key) -> None:
        """Make a step; what it records may call for the next one at once.

        No watch will wake the key for a status that is known already.
        """
        first = await self._timed(key)
        if first.written and (await self._timed(key, absent=first.absent)).written:
            self._queue.add(key)
        await self._events.post(key)

    async def _timed(self, key: Key, *, absent: str = "") -> Done:
        async with asyncio.timeout(STEP_SECONDS):
            return await self.reconcile(key, absent=absent)

    async def reconcile(self, key: Key, *, absent: str = "") -> Done:
        """Make one step; raises what kept it from being complete."""
        observed = await self._gather(key, absent=absent)
        if observed is None:
            self._forget(key)
            return Done(written=False)
        decided = plan(observed)
        self._wait_for(observed, decided.waits_for)
        refusal: OperatorError | None = None
        try:
            await self._carry_out(observed, decided)
        except tuple(STALLED_REASONS) as error:
            refusal = error
            decided = stalled(observed, STALLED_REASONS[type(error)], str(error))
        written = await self._report(observed, decided)
        if refusal is not None:
            raise refusal
        self._follow_up(observed, decided)
        return Done(written, absent="" if decided.apply else absent_job(observed))

    def _wait_for(self, observed: Observed, references: tuple[Key, ...]) -> None:
        """Register what the key waits for, and notice what changed since it was observed."""
        self._cache.set_references(observed.key, references)
        for reference in references:
            seen, known = observed.references.get(reference), self._cache.version(reference)
            if known and (seen is None or seen.metadata.resource_version != known[1]):
                self._queue.add(observed.key)

    async def _carry_out(self, observed: Observed, decided: Plan) -> None:
        uid = observed.object.metadata.uid
        for child in decided.apply:
            await apply_child(self._cluster, child, owner=observed.key, owner_uid=uid)
        for ref in decided.delete:
            await delete_child(self._cluster, ref, owner_uid=uid)

    async def _report(self, observed: Observed, decided: Plan) -> bool:
        """Write the status if it says something new; then its events may be posted."""
        key, metadata = observed.key, observed.object.metadata
        stored = self._stored_status(key)
        shown_for = self._series.seen(key, decided.status, observed.now)
        if shown_for is not None:
            self._queue.add(key, after_seconds=shown_for + 1, lane=Lane.PATIENT)
        verdict = self.status_writes.verdict(key, stored, decided.status, observed.now)
        if verdict.later_seconds is not None:
            self._queue.add(key, after_seconds=verdict.later_seconds, lane=Lane.PATIENT)
        if not verdict.now:
            return False
        written = await self._cluster.write_status(
            key, decided.status, resource_version=metadata.resource_version
        )
        self._take_in(key, written)
        self.status_writes.note(key, observed.now)
        metrics.STATUS_WRITES.labels(key.kind).inc()
        self._events.add(key, metadata.uid, decided.events)
        return True

    def _follow_up(self, observed: Observed, decided: Plan) -> None:
        key = observed.key
        if decided.pull_progress:
            self.active.add(key)
        else:
            self.active.discard(key)
        if decided.requeue_seconds is not None:
            self._queue.add(key, after_seconds=max(decided.requeue_seconds, 0.1))
        if decided.delete:
            self._queue.add(key, after_seconds=DELETE_LOOK_SECONDS, lane=Lane.PATIENT)
        if observed.unserved_kinds:
            self._queue.add(key, after_seconds=KINDS_LOOK_SECONDS, lane=Lane.PATIENT)
        for job in observed.jobs:
            wait = headway_seconds(job, observed.now)
            if wait is not None:
                later = wait if wait > 0 else HEADWAY_LOOK_SECONDS
                self._queue.add(key, after_seconds=later, lane=Lane.PATIENT)

    async def _repeat(self, key: Key, error: OperatorError) -> None:
        """Record a failed step and have it repeated at the error's own pace."""
        if isinstance(error, ConflictError):
            log.debug("planned on an old state", key=key, error=str(error))
        elif not error.forgets_key:
            share = "user" if error.is_users else error.reason
            metrics.RECONCILE_ERRORS.labels(key.kind, share).inc()
            log.warning("step failed", key=key, reason=error.reason, error=str(error))
        await self._events.post(key)
        still_there = await self._read_again(key, error)
        if error.forgets_key and not still_there:
            self._queue.finished(key)
        else:
            self._queue.failed(
                key,
                first_delay_seconds=error.first_delay_seconds,
                least_seconds=getattr(error, "retry_after_seconds", 0.0),
            )

    async def _read_again(self, key: Key, error: OperatorError) -> bool:
        """Bring the cache up to date after the server said it is behind.

        Return False once the object is known to be gone: what was absent may have been another.
        """
        if not isinstance(error, AbsentError | ConflictError):
            return False
        try:
            live = await self._cluster.read(OURS[key.kind], key.namespace, key.name)
        except OperatorError as trouble:
            log.info("live read failed", key=key, error=str(trouble))
            return True
        if live is None:
            self._forget(key)
        else:
            self._take_in(key, live)
        return live is not None

    def _take_in(self, key: Key, live: Manifest) -> None:
        """Store what the server answered; who waits for it hears of this version only here."""
        if self._cache.store(key, live):
            for waiter in self._cache.waiters(key):
                self._queue.add(waiter)

    def _stored_status(self, key: Key) -> Manifest:
        text = self._cache.text(key)
        status: Manifest = (json.loads(text).get("status") or {}) if text else {}
        return status

    def _forget(self, key: Key) -> None:
        self._cache.forget(key)
        self.active.discard(key)
        self.status_writes.forget(key)
        self._events.forget(key)
        self._series.forget(key)
