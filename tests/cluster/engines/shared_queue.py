"""A queue of a real Kueue that a run shares with somebody else's Job."""

from __future__ import annotations

import asyncio

from harness.bare_api import BareApi
from kueue_objects import Manifest, cluster_queue, local_queue, queued_job
from played_operator import until_so

OTHERS = "others"
"""The namespace of everybody else."""


class SharedQueue:
    """One ClusterQueue by the name of the run's namespace."""

    def __init__(self, api: BareApi, namespace: str) -> None:
        self._api, self._namespace = api, namespace

    async def opens(self, *, pods: int) -> None:
        """Open it to the run and to somebody else, with quota for so many pods."""
        await self.has_quota(pods=pods)
        await self._apply(local_queue(self._namespace), self._namespace)
        await self._apply(local_queue(self._namespace, name=self._namespace), OTHERS)

    async def has_quota(self, *, pods: int, flavor: str = "default") -> None:
        """Set how many pods may run at a time, and on which nodes."""
        await self._apply(cluster_queue(self._namespace, pods=pods, flavor=flavor), OTHERS)

    async def takes_a_job(self, *, pods: int, priority: str = "") -> None:
        """Let somebody else put a Job in it."""
        await self._apply(queued_job(self._namespace, self._namespace, pods, priority), OTHERS)

    async def until_that_runs(self) -> None:
        """Wait until somebody else's Job has quota."""
        words = ("get", "job", self._namespace, f"-n={OTHERS}", "-o", "jsonpath={.spec.suspend}")
        await until_so(lambda: self._api.kubectl(*words) == "false")

    async def loses_that(self) -> None:
        """Delete somebody else's Job."""
        words = ("delete", "job", self._namespace, f"-n={OTHERS}")
        await asyncio.to_thread(self._api.kubectl, *words)

    async def _apply(self, manifest: Manifest, namespace: str) -> None:
        await asyncio.to_thread(self._api.apply, manifest, words=(f"--namespace={namespace}",))
