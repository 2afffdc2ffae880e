"""The narrow seam to a cluster: a real API server, or the local one of `finetune run`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol

from finetune_operator.observed import ChildRef, Key, Manifest


@dataclass(frozen=True)
class Resource:
    """A kind as the API server serves it."""

    group: str
    version: str
    plural: str
    kind: str

    @property
    def api_version(self) -> str:
        """Return `group/version`, or the version alone for the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version


@dataclass(frozen=True)
class Page:
    """A part of a list; `resource_version` is the list's, where a watch may begin."""

    items: list[Manifest]
    resource_version: str


@dataclass(frozen=True)
class Change:
    """One watch event; a BOOKMARK carries nothing but its resource version."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    item: Manifest

    @property
    def resource_version(self) -> str:
        """Return the version to continue a watch from."""
        version: Any = self.item["metadata"].get("resourceVersion", "")
        return str(version)


class Cluster(Protocol):
    """Everything the operator asks of a cluster; errors are those of `finetune_operator.errors`."""

    def now(self) -> datetime:
        """Return the only clock a decision ever sees: aware, UTC."""
        ...

    async def served(self, resource: Resource) -> bool:
        """Tell whether the API server serves this kind."""
        ...

    async def read(self, resource: Resource, namespace: str, name: str) -> Manifest | None:
        """Return the live object, or None."""
        ...

    def pages(
        self, resource: Resource, *, labels: str = "", metadata_only: bool = False
    ) -> AsyncIterator[Page]:
        """List in pages of 500, in every watched namespace."""
        ...

    def changes(self, resource: Resource, *, since: str, labels: str = "") -> AsyncIterator[Change]:
        """Watch from a list's version; raises ExpiredError when that is too old (410)."""
        ...

    async def create(self, child: Manifest) -> None:
        """Create a child; ConflictError if something has its name."""
        ...

    async def apply(self, child: Manifest, *, force: bool) -> Manifest:
        """Server-side apply under our field manager."""
        ...

    async def delete(self, child: ChildRef) -> None:
        """Delete in the background if UID and resourceVersion still are the observed ones."""
        ...

    async def write_status(self, key: Key, status: Manifest, *, resource_version: str) -> Manifest:
        """Replace the complete status and return the object; ConflictError if it changed since."""
        ...

    async def post_event(self, event: Manifest) -> None:
        """Create one core/v1 Event."""
        ...

    async def queue_about(self, child: ChildRef) -> str:
        """Return what the queue says of a Job that waits for quota, or ''."""
        ...

    async def warning_about(self, child: ChildRef) -> str:
        """Return the newest Warning event about a child as `Reason: message`, or ''."""
        ...

    async def fetch_progress(self, pod: Manifest) -> bytes:
        """GET /progress of a pod: 3 s, 256 KiB, no redirect, no proxy."""
        ...
