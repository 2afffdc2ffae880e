"""What the harness itself asks of the API server: raw JSON with the administrator's token."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from finetune_api.names import API_VERSION, PLURALS

Json = dict[str, Any]
MERGE = "application/merge-patch+json"
_OTHER_PLURALS = {
    "Pod": ("v1", "pods"),
    "Job": ("batch/v1", "jobs"),
    "Service": ("v1", "services"),
    "ConfigMap": ("v1", "configmaps"),
    "Secret": ("v1", "secrets"),
    "Event": ("v1", "events"),
    "NetworkPolicy": ("networking.k8s.io/v1", "networkpolicies"),
    "JobSet": ("jobset.x-k8s.io/v1alpha2", "jobsets"),
    "Lease": ("coordination.k8s.io/v1", "leases"),
    "Role": ("rbac.authorization.k8s.io/v1", "roles"),
    "RoleBinding": ("rbac.authorization.k8s.io/v1", "rolebindings"),
}
KINDS = {kind: (API_VERSION, plural) for kind, plural in PLURALS.items()} | _OTHER_PLURALS


class RefusedByServerError(Exception):
    """The API server said no."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text[:400]}")
        self.status = status


class AdminApi:
    """Reads and writes without limits."""

    def __init__(self, server: str, token: str, session: aiohttp.ClientSession) -> None:
        self._server, self._session = server, session
        self._headers = {"Authorization": f"Bearer {token}"}

    async def ask(
        self, method: str, path: str, body: Any = None, *, content: str = "application/json",
        **query: str,
    ) -> Json:  # fmt: skip
        """Make one call; raises RefusedByServerError."""
        headers = self._headers | {"Content-Type": content}
        data = None if body is None else json.dumps(body)
        async with self._session.request(
            method, self._server + path, params=query, headers=headers, data=data
        ) as answer:
            text = await answer.text()
            if answer.status >= 400:
                raise RefusedByServerError(answer.status, text)
            found: Json = json.loads(text)
            return found

    async def create(self, manifest: Json, namespace: str) -> Json:
        """Create an object."""
        return await self.ask("POST", path_of(manifest["kind"], namespace), manifest)

    async def read(self, kind: str, namespace: str, name: str) -> Json | None:
        """Return an object, or None."""
        try:
            return await self.ask("GET", path_of(kind, namespace, name))
        except RefusedByServerError as error:
            if error.status == 404:
                return None
            raise

    async def list(self, kind: str, namespace: str) -> list[Json]:
        """Return the objects of a namespace."""
        found = await self.ask("GET", path_of(kind, namespace))
        version, _ = KINDS[kind]
        return [{"apiVersion": version, "kind": kind} | item for item in found["items"] or ()]

    async def merge(
        self, kind: str, namespace: str, name: str, change: Json, sub: str = ""
    ) -> Json:  # fmt: skip
        """Change some fields."""
        path = path_of(kind, namespace, name) + sub
        return await self.ask("PATCH", path, change, content=MERGE)

    async def delete(self, kind: str, namespace: str, name: str, grace: int | None = None) -> None:
        """Delete an object and, in the background, what it owns; gone is fine."""
        options: Json = {"propagationPolicy": "Background"}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        try:
            await self.ask("DELETE", path_of(kind, namespace, name), options)
        except RefusedByServerError as error:
            if error.status not in (404, 409):
                raise

    async def changes(self, kind: str) -> AsyncIterator[Json]:
        """List a kind in the whole cluster as ADDED events, then watch it until that ends."""
        version, path = KINDS[kind][0], path_of(kind, "")
        listed = await self.ask("GET", path)
        for item in listed["items"] or ():
            yield {"type": "ADDED", "object": {"apiVersion": version, "kind": kind} | item}
        yield {"type": "LISTED", "object": {}}
        since = listed["metadata"]["resourceVersion"]
        while True:
            query = {"watch": "1", "resourceVersion": since, "allowWatchBookmarks": "true"}
            async with self._session.get(
                self._server + path, params=query, headers=self._headers
            ) as answer:
                async for line in answer.content:
                    event = json.loads(line)
                    if event.get("type") not in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK"):
                        raise RefusedByServerError(answer.status, str(event))
                    since = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        yield event


def path_of(kind: str, namespace: str, name: str = "") -> str:
    """Return the path of an object, of a namespace's collection, or of the cluster's for ''."""
    version, plural = KINDS[kind]
    start = f"/apis/{version}" if "/" in version else f"/api/{version}"
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"{start}{scope}/{plural}" + (f"/{name}" if name else "")
