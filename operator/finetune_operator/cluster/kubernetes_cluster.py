"""The `Cluster` of a real API server: paths, apply, preconditions, lists and watches."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import aiohttp

from finetune_api.names import FIELD_MANAGER, METRICS_PORT
from finetune_api.run_progress import MAX_BYTES
from finetune_operator.cluster.answers import newest_warning, quota_message
from finetune_operator.cluster.api_transport import (
    APPLY,
    JSON,
    JSON_PATCH,
    METADATA_LIST,
    ApiTransport,
    Body,
)
from finetune_operator.cluster.cluster_protocol import Change, Page, Resource
from finetune_operator.cluster.resources import EVENTS, OURS, WORKLOADS, resource_named, resource_of
from finetune_operator.errors import (
    AbsentError,
    ExpiredError,
    NotServedError,
    ThrottledError,
    UnavailableError,
)
from finetune_operator.observed import ChildRef, Key, Manifest
from finetune_operator.write_budget import TokenBucket

PAGE_SIZE = "500"
_JOB_UID_LABEL = "kueue.x-k8s.io/job-uid"
PROGRESS_TIMEOUT = aiohttp.ClientTimeout(total=3)


class KubernetesCluster:
    """A real cluster, or one or several namespaces of it."""

    def __init__(
        self, transport: ApiTransport, *, namespaces: tuple[str, ...] = (),
        writes: TokenBucket | None = None, reads: TokenBucket | None = None,
    ) -> None:  # fmt: skip
        self._transport = transport
        self._scopes = namespaces or ("",)
        self._writes = writes or TokenBucket(40, 80)
        self._reads = reads or TokenBucket(50, 100)
        self._pods: aiohttp.ClientSession | None = None
        self._must_lead: Callable[[], None] = lambda: None

    def guard(self, must_lead: Callable[[], None]) -> None:
        """Have `must_lead` called right before every write but those of the Lease; it may raise."""
        self._must_lead = must_lead

    def scopes(self) -> list[KubernetesCluster]:
        """Return one view per namespace: a watch has exactly one scope."""
        return [
            KubernetesCluster(
                self._transport, namespaces=(scope,), writes=self._writes, reads=self._reads
            )
            for scope in self._scopes
        ]

    async def close(self) -> None:
        """Close the connections to pods and to the API server."""
        if self._pods is not None:
            await self._pods.close()
        await self._transport.close()

    def now(self) -> datetime:
        """Return the time of the API server's clock."""
        return datetime.fromtimestamp(int(self._transport.server_time()), UTC)

    async def served(self, resource: Resource) -> bool:
        """Tell whether the API server serves this kind."""
        try:
            known = await self._transport.send("GET", _group_path(resource))
        except (NotServedError, AbsentError):
            return False
        return any(entry["name"] == resource.plural for entry in known["resources"])

    async def read(self, resource: Resource, namespace: str, name: str) -> Manifest | None:
        """Return the live object, or None."""
        await self._reads.take()
        try:
            return await self._transport.send("GET", _path(resource, namespace, name))
        except AbsentError:
            return None

    async def pages(
        self, resource: Resource, *, labels: str = "", metadata_only: bool = False
    ) -> AsyncIterator[Page]:
        """List in pages of 500, in every watched namespace."""
        accept = METADATA_LIST if metadata_only else JSON
        for scope in self._scopes:
            query = {"limit": PAGE_SIZE, "labelSelector": labels}
            while True:
                part = await self._transport.send(
                    "GET", _path(resource, scope), query=_set(query), accept=accept
                )
                facts = part["metadata"]
                items = [_typed(item, resource) for item in part["items"] or ()]
                yield Page(items, facts["resourceVersion"])
                query["continue"] = facts.get("continue", "")
                if not query["continue"]:
                    break

    async def changes(
        self, resource: Resource, *, since: str, labels: str = ""
    ) -> AsyncIterator[Change]:
        """Watch from a list's version, with bookmarks, for four to six minutes."""
        if len(self._scopes) > 1:
            raise ValueError("a watch has one scope; use scopes()")
        seconds = random.randint(240, 360)  # noqa: S311 - spreads reconnects, guards nothing
        query = {
            "watch": "1", "allowWatchBookmarks": "true", "resourceVersion": since,
            "timeoutSeconds": str(seconds), "labelSelector": labels,
        }  # fmt: skip
        async for event in self._transport.lines(_path(resource, self._scopes[0]), _set(query)):
            if event["type"] == "ERROR":
                raise _watch_error(event["object"])
            yield Change(event["type"], _typed(event["object"], resource))

    async def create(self, child: Manifest) -> None:
        """Create a child; unknown fields are refused, an object of its name is left alone."""
        path = _path(resource_of(child), child["metadata"]["namespace"])
        await self._write("POST", path, child)

    async def apply(self, child: Manifest, *, force: bool) -> Manifest:
        """Server-side apply under our field manager; unknown fields are refused."""
        metadata = child["metadata"]
        path = _path(resource_of(child), metadata["namespace"], metadata["name"])
        query = {"force": "true"} if force else {}
        return await self._write("PATCH", path, child, content_type=APPLY, query=query)

    async def delete(self, child: ChildRef) -> None:
        """Delete in the background if UID and version are those observed; gone is fine."""
        path = _path(resource_named(child.api_version, child.kind), child.namespace, child.name)
        options = {
            "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background",
            "preconditions": {"uid": child.uid, "resourceVersion": child.resource_version},
        }  # fmt: skip
        try:
            await self._spend("DELETE", path, body=options)
        except AbsentError:
            return

    async def write_status(self, key: Key, status: Manifest, *, resource_version: str) -> Manifest:
        """Replace the status of the version that was observed; return the object as it is then.

        By JSON patch: server-side apply turns a map whose last owned field goes into null, which
        the schema refuses (seen with `children`). The version in the patch makes the server
        answer 409 instead of trying again by itself.
        """
        patch: list[Manifest] = [
            {"op": "add", "path": "/metadata/resourceVersion", "value": resource_version},
            {"op": "add", "path": "/status", "value": status},
        ]
        path = _path(OURS[key.kind], key.namespace, key.name) + "/status"
        return await self._write("PATCH", path, patch, content_type=JSON_PATCH)

    async def post_event(self, event: Manifest) -> None:
        """Create one core/v1 Event; one that only informs gives way to other writes."""
        if event["type"] == "Normal" and not self._writes.has_spare():
            raise ThrottledError("the write budget is used up")
        await self._spend("POST", _path(EVENTS, event["metadata"]["namespace"]), body=event)

    async def queue_about(self, child: ChildRef) -> str:
        """Return why Kueue has not admitted a Job, from the Workload it keeps for it, or ''."""
        query = {"labelSelector": f"{_JOB_UID_LABEL}={child.uid}", "limit": "1"}
        for workloads in WORKLOADS:
            await self._reads.take()
            with suppress(AbsentError, NotServedError):
                path = _path(workloads, child.namespace)
                found = await self._transport.send("GET", path, query=query)
                return quota_message(found.get("items") or ())
        return ""  # no Kueue here: the queue's name is all that is known

    async def warning_about(self, child: ChildRef) -> str:
        """Return the newest Warning event about a child as `Reason: message`, or ''."""
        await self._reads.take()
        query = {"fieldSelector": f"involvedObject.uid={child.uid},type=Warning", "limit": "50"}
        found = await self._transport.send("GET", _path(EVENTS, child.namespace), query=query)
        return newest_warning(found.get("items") or ())

    async def fetch_progress(self, pod: Manifest) -> bytes:
        """GET /progress of a pod: 3 s, 256 KiB, no redirect, no proxy."""
        if self._pods is None:
            self._pods = aiohttp.ClientSession(
                timeout=PROGRESS_TIMEOUT, trust_env=False, auto_decompress=False
            )
        ip = pod["status"]["podIP"]
        address = f"http://[{ip}]" if ":" in ip else f"http://{ip}"
        try:
            async with self._pods.get(
                f"{address}:{METRICS_PORT}/progress", allow_redirects=False
            ) as answer:
                body = await answer.content.read(MAX_BYTES + 1)
                while len(body) <= MAX_BYTES and (more := await answer.content.read(MAX_BYTES)):
                    body += more
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UnavailableError(f"no progress answer ({type(error).__name__})") from error
        if answer.status != 200 or len(body) > MAX_BYTES:
            raise UnavailableError(f"progress answer of {len(body)} bytes, status {answer.status}")
        return body

    async def create_lease(self, lease: Manifest) -> Manifest:
        """Create the Lease; raises ConflictError if somebody was faster."""
        return await self._transport.send(
            "POST", _path(resource_of(lease), lease["metadata"]["namespace"]), body=lease
        )

    async def replace_lease(self, lease: Manifest) -> Manifest:
        """Change the Lease's spec if its resourceVersion still is the one read."""
        metadata = lease["metadata"]
        return await self._transport.send(
            "PATCH", _path(resource_of(lease), metadata["namespace"], metadata["name"]),
            body=lease, content_type="application/merge-patch+json",
        )  # fmt: skip

    async def _write(
        self, method: str, path: str, body: Body, *, content_type: str = JSON,
        query: dict[str, str] | None = None,
    ) -> Manifest:  # fmt: skip
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict", **(query or {})}
        return await self._spend(method, path, body=body, query=query, content_type=content_type)

    async def _spend(self, method: str, path: str, **call: Any) -> Manifest:
        """Make a call that the write budget pays for, and pause all when told to slow down."""
        await self._writes.take()
        self._must_lead()
        try:
            return await self._transport.send(method, path, **call)
        except ThrottledError as error:
            self._writes.pause(error.retry_after_seconds or 1.0)
            raise


def _group_path(resource: Resource) -> str:
    return f"/apis/{resource.api_version}" if resource.group else f"/api/{resource.version}"


def _path(resource: Resource, namespace: str, name: str = "") -> str:
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"{_group_path(resource)}{scope}/{resource.plural}" + (f"/{name}" if name else "")


def _set(query: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in query.items() if value}


def _typed(item: Manifest, resource: Resource) -> Manifest:
    """Give a list's item the type that lists leave out, and metadata-only answers replace."""
    return {**item, "apiVersion": resource.api_version, "kind": resource.kind}


def _watch_error(status: Manifest) -> Exception:
    code, message = status.get("code", 0), str(status.get("message", ""))[:256]
    if code == 410:
        return ExpiredError(message, status=410)
    return UnavailableError(f"watch ended with {code}: {message}", status=code)
