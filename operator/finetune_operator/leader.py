"""Leader election over one Lease, and the fencing number that makes a paused leader harmless.

Who leads is judged by watching the record change against the own monotonic clock, never by
comparing times that two machines wrote.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

import structlog

from finetune_operator import metrics
from finetune_operator.cluster.cluster_protocol import Resource
from finetune_operator.cluster.resources import LEASES
from finetune_operator.errors import (
    ClusterError,
    ConflictError,
    CredentialsError,
    LeadershipLostError,
)
from finetune_operator.observed import Manifest

DURATION_SECONDS = 15.0
RENEW_DEADLINE_SECONDS = 10.0
RETRY_SECONDS = 2.0

log = structlog.get_logger()


class LeaseStore(Protocol):
    """What the election asks of a cluster."""

    def now(self) -> datetime:
        """Return the time to write down for people."""
        ...

    async def read(self, resource: Resource, namespace: str, name: str) -> Manifest | None:
        """Return the live Lease, or None."""
        ...

    async def create_lease(self, lease: Manifest) -> Manifest:
        """Create the Lease; raises ConflictError if somebody was faster."""
        ...

    async def replace_lease(self, lease: Manifest) -> Manifest:
        """Change the Lease if its resourceVersion is the one given."""
        ...


class Leader:
    """One candidate: `acquire`, then `keep` until the process ends, then `release`."""

    def __init__(
        self, store: LeaseStore, *, namespace: str, name: str, identity: str,
        clock: Callable[[], float] = time.monotonic, renewed: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._store, self._namespace, self._name = store, namespace, name
        self._identity, self._clock, self._renewed = identity, clock, renewed
        self._lease: Manifest | None = None
        self._seen: tuple[str, float] | None = None
        self._renewed_at = 0.0
        self._one_write = asyncio.Lock()
        self.pod = ""
        """pod begins the identities of all processes of one pod, of which one runs at a time."""

    @property
    def fence(self) -> int | None:
        """Return the number of this leadership, None without one."""
        if self._lease is None:
            return None
        return int(self._lease["spec"].get("leaseTransitions") or 0)

    def must_lead(self) -> None:
        """Raise LeadershipLostError if another may lead: who stood still acts no more."""
        if self._lease is None or self._clock() - self._renewed_at > RENEW_DEADLINE_SECONDS:
            raise LeadershipLostError("the Lease was not renewed in time")

    async def acquire(self) -> None:
        """Wait until the Lease is ours."""
        while True:
            await self._try()
            if self._lease is not None:
                break
            await asyncio.sleep(RETRY_SECONDS)
        log.info("leading", identity=self._identity, fence=self.fence)
        self._publish()

    async def raise_above(self, fence: int) -> None:
        """Lift the fencing number above every fence found in the cluster."""
        if self._lease is not None and (self.fence or 0) <= fence:
            await self._write(at_least=fence + 1)
            self._publish()

    async def keep(self) -> None:
        """Renew until cancelled; raises LeadershipLostError when that fails for too long."""
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            try:
                async with asyncio.timeout(self._seconds_left()):
                    await self._write()
            except ConflictError as error:
                await self._still_ours(error)
            except (ClusterError, TimeoutError) as error:
                log.warning("lease not renewed", error=str(error))
                if self._seconds_left() <= 0.1:
                    raise LeadershipLostError("the Lease could not be renewed in time") from error

    async def release(self) -> None:
        """Give the Lease up, so that the next process need not wait for its end."""
        if self._lease is None:
            return
        try:
            await self._write(holder="")
        except ClusterError as error:
            log.warning("lease not released", error=str(error))
        self._lease = None
        metrics.LEADER.set(0)

    async def _try(self) -> None:
        try:
            found = await self._store.read(LEASES, self._namespace, self._name)
            if found is None:
                self._lease = await self._store.create_lease(self._record(1, self._identity))
                self._note()
            elif self._may_take(found):
                self._lease = found
                await self._write(at_least=(self.fence or 0) + 1)
        except CredentialsError:
            raise
        except ClusterError as error:
            self._lease = None
            if not isinstance(error, ConflictError):
                log.warning("lease not acquired", error=str(error))

    def _may_take(self, found: Manifest) -> bool:
        """Tell whether the Lease is free or its record did not change for its whole duration.

        A process of this very pod that holds it has ended, or this one would not run.
        """
        holder = str(found["spec"].get("holderIdentity") or "")
        if not holder or (self.pod and holder.startswith(f"{self.pod}_")):
            return True
        version = found["metadata"]["resourceVersion"]
        if self._seen is None or self._seen[0] != version:
            self._seen = (version, self._clock())
            return False
        return self._clock() - self._seen[1] >= DURATION_SECONDS

    async def _still_ours(self, error: ConflictError) -> None:
        """Adopt a record that changed but still names us, as after a lost answer."""
        found = await self._store.read(LEASES, self._namespace, self._name)
        if found is None or found["spec"].get("holderIdentity") != self._identity:
            raise LeadershipLostError("another process holds the Lease") from error
        self._lease = found

    async def _write(self, *, at_least: int = 0, holder: str | None = None) -> None:
        """Write the record onto the version last seen; one write at a time, or two would clash."""
        async with self._one_write:
            assert self._lease is not None  # noqa: S101 - only called while a Lease is known
            transitions = max(self.fence or 0, at_least)
            record = self._record(transitions, self._identity if holder is None else holder)
            record["metadata"]["resourceVersion"] = self._lease["metadata"]["resourceVersion"]
            self._lease = await self._store.replace_lease(record)
            self._note()

    def _note(self) -> None:
        self._renewed_at = self._clock()
        self._renewed()

    def _seconds_left(self) -> float:
        return max(0.1, self._renewed_at + RENEW_DEADLINE_SECONDS - self._clock())

    def _publish(self) -> None:
        metrics.LEADER.set(1)
        metrics.FENCING_NUMBER.set(self.fence or 0)

    def _record(self, transitions: int, holder: str) -> Manifest:
        now = self._store.now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": {
                "holderIdentity": holder or None,  # the API server refuses an empty text
                "leaseDurationSeconds": int(DURATION_SECONDS),
                "leaseTransitions": transitions,
                "renewTime": now,
            },
        }
