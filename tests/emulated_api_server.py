"""A small API server in one process: enough of the protocol for the operator, with faults.

It keeps objects in memory, speaks list, watch, server-side apply, status, delete with
preconditions and merge patch, logs every request, and fails on demand. What it does not do:
schemas, admission, controllers. The tests marked `cluster` ask a real one.
"""

from __future__ import annotations

import asyncio
import copy
import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from emulated_discovery import RESOURCES, add_discovery
from finetune_operator.cluster.cluster_protocol import Resource

Manifest = dict[str, Any]
BOOKMARK_SECONDS = 0.5


@dataclass(frozen=True)
class Request:
    """One request as an authorizer sees it."""

    verb: str
    group: str
    resource: str
    namespace: str


@dataclass
class Fault:
    """Answer `times` requests that match with `status` instead of serving them."""

    matches: Callable[[Request], bool]
    status: int
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)


class EmulatedApiServer:
    """Objects by resource, namespace and name, and a history for watches."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Manifest] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self._history: list[tuple[int, str, str, Manifest]] = []
        self._oldest = 0
        self._version = 0
        self._news = asyncio.Condition()
        self._epoch = 0
        self.address = ""

    def app(self) -> web.Application:
        app = web.Application(client_max_size=8 * 2**20)
        add_discovery(app)
        for resource in RESOURCES:
            root = f"/apis/{resource.api_version}" if resource.group else "/api/v1"
            one = f"{root}/namespaces/{{namespace}}/{resource.plural}"
            for path in (f"{root}/{resource.plural}", one):
                app.router.add_route("*", path, self._collection(resource))
            app.router.add_route("*", f"{one}/{{name}}", self._item(resource))
            app.router.add_route("*", f"{one}/{{name}}/status", self._item(resource, "status"))
        return app

    def find(self, kind: str, name: str) -> Manifest | None:
        """Return the first object of this kind and name, in whatever namespace."""
        found = ((k, o) for k, o in self.objects.items() if o["kind"] == kind and k[2] == name)
        return next((o for _, o in found), None)

    async def put(self, manifest: Manifest) -> Manifest:
        """Create or change an object as a user, controller or kubelet would."""
        resource = next(r for r in RESOURCES if r.kind == manifest["kind"])
        metadata = manifest["metadata"]
        place = (resource.plural, metadata["namespace"], metadata["name"])
        return await self._store(place, manifest, self.objects.get(place))

    async def remove(self, kind: str, name: str, *, silently: bool = False) -> None:
        """Delete an object; silently: no watch ever tells."""
        place = next(k for k, o in self.objects.items() if o["kind"] == kind and k[2] == name)
        await self._delete(place, told=not silently)

    async def forget_history(self) -> None:
        """Make every running watch too old: each gets a 410 ERROR event."""
        self._oldest, self._history = self._version, []
        self._epoch += 1
        async with self._news:
            self._news.notify_all()

    @contextmanager
    def failing(self, fault: Fault) -> Iterator[None]:
        self.faults.append(fault)
        try:
            yield
        finally:
            self.faults.remove(fault)

    def writes(self) -> list[Request]:
        """Return the requests that changed something of ours; Lease renewals left out."""
        reading = ("get", "list", "watch")
        return [r for r in self.requests if r.verb not in reading and r.resource != "leases"]

    def _collection(self, resource: Resource) -> Any:
        async def answer(request: web.Request) -> web.StreamResponse:
            namespace = request.match_info.get("namespace", "")
            is_watch = request.query.get("watch") in ("1", "true")
            verb = "create" if request.method == "POST" else "watch" if is_watch else "list"
            if refusal := self._admit(Request(verb, resource.group, resource.plural, namespace)):
                return refusal
            if verb == "create":
                return await self._create(resource, namespace, await request.json())
            if is_watch:
                return await self._watch(request, resource, namespace)
            items = self._matching(resource, namespace, request)
            body = {
                "kind": f"{resource.kind}List", "apiVersion": resource.api_version,
                "metadata": {"resourceVersion": str(self._version)}, "items": items,
            }  # fmt: skip
            return web.json_response(body)

        return answer

    def _item(self, resource: Resource, subresource: str = "") -> Any:
        async def answer(request: web.Request) -> web.StreamResponse:
            namespace, name = request.match_info["namespace"], request.match_info["name"]
            verb = request.method.lower()
            plural = f"{resource.plural}/{subresource}" if subresource else resource.plural
            if refusal := self._admit(Request(verb, resource.group, plural, namespace)):
                return refusal
            place = (resource.plural, namespace, name)
            body = await request.json() if request.can_read_body else {}
            if verb == "patch":
                return await self._patch(place, _patched(body), request, subresource)
            found = self.objects.get(place)
            if found is None:
                return _status(404, "NotFound", details={"name": name})
            if verb == "delete":
                wanted = body.get("preconditions") or {}
                if any(found["metadata"][key] != value for key, value in wanted.items()):
                    return _status(409, "Conflict")
                await self._delete(place)
            return web.json_response(found)

        return answer

    def _admit(self, request: Request) -> web.Response | None:
        self.requests.append(request)
        for fault in self.faults:
            if fault.times > 0 and fault.matches(request):
                fault.times -= 1
                return _status(fault.status, "Injected", headers=fault.headers)
        return None

    async def _create(
        self, resource: Resource, namespace: str, body: Manifest
    ) -> web.StreamResponse:
        place = (resource.plural, namespace, body["metadata"]["name"])
        if place in self.objects:
            return _status(409, "AlreadyExists", details={"name": place[2]})
        return web.json_response(await self._store(place, body, None), status=201)

    async def _patch(
        self, place: tuple[str, str, str], body: Manifest, request: web.Request, subresource: str
    ) -> web.StreamResponse:
        found = self.objects.get(place)
        version = body["metadata"].get("resourceVersion")
        if found is None and (subresource or "apply" not in request.content_type):
            return _status(404, "NotFound", details={"name": place[2]})
        if found and version and version != found["metadata"]["resourceVersion"]:
            return _status(409, "Conflict")
        if subresource:
            body = {**found, "status": body.get("status", {})} if found else body
        elif found and "status" in found:
            body = {**body, "status": found["status"]}
        return web.json_response(await self._store(place, body, found))

    async def _watch(
        self, request: web.Request, resource: Resource, namespace: str
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        with suppress(ConnectionResetError):  # the client hung up
            await self._stream(request, response, resource, namespace)
        return response

    async def _stream(
        self, request: web.Request, response: web.StreamResponse, resource: Resource, namespace: str
    ) -> None:
        since, epoch = int(request.query.get("resourceVersion") or 0), self._epoch
        while True:
            if since < self._oldest or epoch != self._epoch:
                gone = {"kind": "Status", "code": 410, "message": "too old resource version"}
                await _line(response, {"type": "ERROR", "object": gone})
                return
            told, newest = list(self._history), self._version
            for version, kind, plural, item in told:
                is_asked = plural == resource.plural and namespace in ("", _namespace(item))
                if version > since and is_asked and _selected(item, request):
                    await _line(response, {"type": kind, "object": item})
            since = newest
            mark = {"kind": resource.kind, "metadata": {"resourceVersion": str(since)}}
            await _line(response, {"type": "BOOKMARK", "object": mark})
            async with self._news:
                with suppress(TimeoutError):
                    if since == self._version:
                        await asyncio.wait_for(self._news.wait(), BOOKMARK_SECONDS)

    def _matching(self, resource: Resource, namespace: str, request: web.Request) -> list[Manifest]:
        return [
            item for (plural, where, _), item in self.objects.items()
            if plural == resource.plural and namespace in ("", where) and _selected(item, request)
        ]  # fmt: skip

    async def _store(
        self, place: tuple[str, str, str], body: Manifest, found: Manifest | None
    ) -> Manifest:
        stored = copy.deepcopy(body)
        metadata = stored["metadata"]
        metadata["namespace"] = place[1]
        old = found["metadata"] if found else {}
        metadata["uid"] = old.get("uid") or str(uuid.uuid4())
        metadata["creationTimestamp"] = "2026-01-01T00:00:00Z"
        is_edited = found is None or stored.get("spec") != found.get("spec")
        metadata["generation"] = old.get("generation", 0) + is_edited
        if found is not None:
            metadata["resourceVersion"] = old["resourceVersion"]
            if stored == found:
                return found  # a write that changes nothing is no event, as on a real server
        self._version += 1
        metadata["resourceVersion"] = str(self._version)
        self.objects[place] = stored
        await self._tell("MODIFIED" if found else "ADDED", place[0], stored)
        return stored

    async def _delete(self, place: tuple[str, str, str], *, told: bool = True) -> None:
        item = copy.deepcopy(self.objects.pop(place))
        self._version += 1
        item["metadata"]["resourceVersion"] = str(self._version)
        if told:
            await self._tell("DELETED", place[0], item)

    async def _tell(self, kind: str, plural: str, item: Manifest) -> None:
        self._history.append((self._version, kind, plural, copy.deepcopy(item)))
        async with self._news:
            self._news.notify_all()


def _patched(body: Any) -> Manifest:
    """Read the one JSON patch that the operator sends, with the version and a whole status."""
    if isinstance(body, dict):
        return body
    version, status = (operation["value"] for operation in body)
    return {"metadata": {"resourceVersion": version}, "status": status}


def _namespace(item: Manifest) -> str:
    return str(item["metadata"]["namespace"])


def _selected(item: Manifest, request: web.Request) -> bool:
    metadata, involved = item["metadata"], item.get("involvedObject", {})
    fields = {"type": item.get("type"), "involvedObject.uid": involved.get("uid")}
    labels, query = metadata.get("labels") or {}, request.query
    return _holds(query.get("labelSelector"), labels) and _holds(query.get("fieldSelector"), fields)


def _holds(selector: str | None, facts: Manifest) -> bool:
    wanted = [pair.split("=", 1) for pair in (selector or "").split(",") if pair]
    return all(facts.get(name) == value for name, value in wanted)


async def _line(response: web.StreamResponse, event: Manifest) -> None:
    await response.write(json.dumps(event).encode() + b"\n")


def _status(
    code: int,
    reason: str,
    *,
    details: Manifest | None = None,
    headers: dict[str, str] | None = None,
) -> web.Response:
    body = {"kind": "Status", "code": code, "reason": reason, "details": details or {}}
    return web.json_response(body, status=code, headers=headers)
