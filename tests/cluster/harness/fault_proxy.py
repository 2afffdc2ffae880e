"""A reverse proxy before a real API server: notes every call of one client, and lets it fail.

The client talks plain HTTP to a port of its own and is authorised by its own token upstream. What
goes wrong is a `Fault`: it stands around every call and within every watch.
"""

from __future__ import annotations

import json
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

Json = dict[str, Any]
Forward = Callable[[], Awaitable["Reply"]]
LONGEST_LINE = 1 << 22
_PASSED_ON = ("Content-Type", "Retry-After")


class CutError(Exception):
    """The connection to the client ends without an answer."""


@dataclass(frozen=True)
class Call:
    """One request, named so that it is found again in another run."""

    verb: str
    resource: str
    name: str = ""
    detail: str = ""
    """detail tells apart what differs only in its body."""
    nth: int = 1
    """nth call of these four."""

    @property
    def writes(self) -> bool:
        """Tell whether it may change something that lasts; a Lease is renewed all the time."""
        return self.verb not in ("get", "list", "watch") and self.resource != "leases"


@dataclass(frozen=True)
class Reply:
    """An answer to a call."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    def json(self) -> Json:
        """Return the body as an object, {} if it is none."""
        try:
            found = json.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class Noted:
    """A call as it ended: status 0 = cut; `changed` = the object got a new version."""

    call: Call
    status: int
    changed: bool
    seconds: float = 0.0
    """seconds since the proxy began."""


class Fault:
    """Nothing goes wrong; subclasses say what does."""

    def asked(self, call: Call, query: dict[str, str]) -> dict[str, str]:
        """Return the query that goes to the server."""
        return query

    async def around(self, call: Call, forward: Forward) -> Reply:
        """Answer a call; `forward` asks the server. Raises CutError to answer nothing."""
        return await forward()

    async def stream(self, call: Call, events: AsyncIterator[Json]) -> AsyncIterator[Json]:
        """Yield the events of a watch that reach the client."""
        async for event in events:
            yield event


Describe = Callable[[str, str, Any], tuple[str, str]]
"""(resource, name, body) → name and detail of a call."""


class FaultProxy:
    """One listening port; `fault` may be exchanged while it runs."""

    def __init__(self, server: str, session: aiohttp.ClientSession, describe: Describe) -> None:
        self._server, self._session, self._describe = server, session, describe
        self.fault: Fault = Fault()
        self.noted: list[Noted] = []
        self.under_way = 0
        """Calls that have no answer yet, but watches and the Lease, which go on all the time."""
        self.address = ""
        self._began = time.monotonic()
        self._counts: Counter[tuple[str, str, str, str]] = Counter()
        self._versions: dict[str, str] = {}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        body = await request.read()
        call = self._call(request, body)
        query = self.fault.asked(call, dict(request.query))
        answered = call.verb != "watch" and call.resource != "leases"
        self.under_way += answered
        try:
            if call.verb == "watch":
                return await self._watched(request, call, query)
            reply = await self.fault.around(call, lambda: self._forwarded(request, query, body))
        except (CutError, aiohttp.ClientError) as error:
            self._note(call, request.path, Reply(0, b""))
            if request.transport is not None:
                request.transport.abort()
            raise web.HTTPBadGateway from error
        finally:
            self.under_way -= answered
        self._note(call, request.path, reply)
        return web.Response(status=reply.status, body=reply.body, headers=reply.headers)

    def _call(self, request: web.Request, body: bytes) -> Call:
        resource, name = _target(request.path)
        verb = _verb(request, name)
        parsed = json.loads(body) if body else None
        name, detail = self._describe(resource, name, parsed)
        named = (verb, resource, name, detail)
        self._counts[named] += 1
        return Call(*named, self._counts[named])

    def _note(self, call: Call, path: str, reply: Reply) -> None:
        """Note a call; one that leaves the object at the version last seen changed nothing."""
        answer = reply.json() if call.verb in ("get", "create", "patch") else {}
        metadata = answer.get("metadata") or {}
        place = f"{path.removesuffix('/status')} {metadata.get('uid', '')}"
        version = metadata.get("resourceVersion", "")
        changed = not version or self._versions.get(place) != version
        self._versions[place] = version
        seconds = round(time.monotonic() - self._began, 2)
        self.noted.append(Noted(call, reply.status, changed, seconds))

    def _upstream(self, request: web.Request, query: dict[str, str], body: bytes) -> Any:
        kept = ("Authorization", "Content-Type", "Accept", "User-Agent")
        headers = {name: request.headers[name] for name in kept if name in request.headers}
        return self._session.request(
            request.method, f"{self._server}{request.path}", params=query, data=body or None,
            headers=headers | {"Accept-Encoding": "identity"},
        )  # fmt: skip

    async def _forwarded(self, request: web.Request, query: dict[str, str], body: bytes) -> Reply:
        async with self._upstream(request, query, body) as answer:
            headers = {name: answer.headers[name] for name in _PASSED_ON if name in answer.headers}
            return Reply(answer.status, await answer.read(), headers)

    async def _watched(
        self, request: web.Request, call: Call, query: dict[str, str]
    ) -> web.StreamResponse:
        refused = await self.fault.around(call, _allowed)
        if refused.status != 200:
            return web.Response(status=refused.status, body=refused.body, headers=refused.headers)
        async with self._upstream(request, query, b"") as answer:
            response = web.StreamResponse(status=answer.status)
            response.content_type = "application/json"
            await response.prepare(request)
            try:
                async for event in self.fault.stream(call, _events(answer)):
                    await response.write(json.dumps(event).encode() + b"\n")
            except (CutError, aiohttp.ClientError, ConnectionError):
                if request.transport is not None:
                    request.transport.abort()
            return response


@asynccontextmanager
async def fault_proxy(
    server: str, session: aiohttp.ClientSession, describe: Describe
) -> AsyncIterator[FaultProxy]:
    """Run a proxy on a free loopback port."""
    proxy = FaultProxy(server, session, describe)
    app = web.Application(client_max_size=LONGEST_LINE)
    app.router.add_route("*", "/{path:.*}", proxy.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    proxy.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield proxy
    finally:
        await runner.cleanup()


def upstream_session(authority: str) -> aiohttp.ClientSession:
    """Return a session to the API server for many proxies: no limit, long lines."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=ssl.create_default_context(cafile=authority)),
        timeout=aiohttp.ClientTimeout(total=None, connect=10),
        read_bufsize=LONGEST_LINE,
    )


async def _allowed() -> Reply:
    return Reply(200, b"")


async def _events(answer: aiohttp.ClientResponse) -> AsyncIterator[Json]:
    async for line in answer.content:
        yield json.loads(line)


def _target(path: str) -> tuple[str, str]:
    """Return resource, with its subresource, and name in a path."""
    parts = path.strip("/").split("/")
    rest = parts[2:] if parts[0] == "api" else parts[3:]
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        rest = rest[2:]
    if not rest:
        return "discovery", ""
    return "/".join([rest[0], *rest[2:]]), rest[1] if len(rest) > 1 else ""


def _verb(request: web.Request, name: str) -> str:
    if request.method == "GET":
        if request.query.get("watch") in ("1", "true"):
            return "watch"
        return "get" if name else "list"
    return {"POST": "create", "PUT": "update"}.get(request.method, request.method.lower())
