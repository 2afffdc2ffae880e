"""The faults: what each mode does to the calls and watches of the operator."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

from harness.fault_proxy import Call, CutError, Fault, Forward, Reply

from faults.fault_plan import Plan
from faults.summaries import describe_event
from finetune_api.names import PLURALS

Json = dict[str, Any]
Do = Callable[[], Awaitable[None]]
MOMENTS = ("before", "applied", "after")
CACHED = (*PLURALS.values(), "jobs", "pods")
THAW_SECONDS, GAP_SECONDS = 1.0, 4.0
SLOW_SECONDS = 12.0
TIMES = 2
"""An error is answered so often before the server is well again."""
TEXTS = {
    401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 409: "Conflict", 410: "Expired",
    422: "Invalid", 429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable",
}  # fmt: skip


class StrikingFault(Fault):
    """A fault that notes whether it struck: a plan that never does proves nothing."""

    struck = False


class AtCall(StrikingFault):
    """Something happens at one call, at one of its moments."""

    def __init__(self, where: Json, do: Do, *, cuts: bool) -> None:
        self._call = Call(**where["call"])
        self._moment, self._do, self._cuts = where.get("moment", "before"), do, cuts

    async def around(self, call: Call, forward: Forward) -> Reply:
        if self.struck or not self._is_meant(call):
            return await forward()
        self.struck = True
        if self._moment == "before":
            await self._do()
            if self._cuts:
                raise CutError
            return await forward()
        reply = await forward()
        if self._moment == "after":
            asyncio.get_running_loop().call_later(0.005, lambda: asyncio.ensure_future(self._do()))
            return reply
        await self._do()
        raise CutError

    def _is_meant(self, call: Call) -> bool:
        """After another fault the call may have come and gone before: then the next one is."""
        return call.nth >= self._call.nth and replace(call, nth=self._call.nth) == self._call


class Stale(StrikingFault):
    """The operator is killed when `until` reached it; the next one first sees the past.

    The past is the moment of the event `since`: lists are answered as of then, and watches bring
    nothing newer until the new operator had time to act on it.
    """

    def __init__(self, where: Json, kill: Do) -> None:
        self._since, self._until, self._kill = where["since"], where["until"], kill
        self._version = ""
        self._thawed = asyncio.Event()
        self._thawing = False

    def asked(self, call: Call, query: dict[str, str]) -> dict[str, str]:
        cached = call.verb == "list" and call.resource in CACHED
        live = "finetune.dev/" in query.get("labelSelector", "") or "continue" in query
        if not cached or live or not self.struck or self._thawed.is_set():
            return query
        return query | {"resourceVersion": self._version, "resourceVersionMatch": "Exact"}

    async def around(self, call: Call, forward: Forward) -> Reply:
        watches = call.verb == "watch" and call.resource in PLURALS.values()
        if self.struck and watches and not self._thawing:
            self._thawing = True
            asyncio.get_running_loop().call_later(THAW_SECONDS, self._thawed.set)
        return await forward()

    async def stream(self, call: Call, events: AsyncIterator[Json]) -> AsyncIterator[Json]:
        async for event in events:
            if self.struck:
                await self._thawed.wait()
            words = _words(event)
            if words == self._since and not self._version:
                self._version = str(event["object"]["metadata"]["resourceVersion"])
            yield event
            if words == self._until and self._version and not self.struck:
                self.struck = True
                await self._kill()


class Gap(StrikingFault):
    """From event `since` on nothing arrives; once `until` is there, all watches begin anew."""

    def __init__(self, where: Json) -> None:
        self._since, self._until = where["since"], where["until"]
        self._silent = False
        self._over = asyncio.Event()

    async def stream(self, call: Call, events: AsyncIterator[Json]) -> AsyncIterator[Json]:
        async for event in events:
            if _words(event) == self._since and not self.struck:
                self.struck = self._silent = True
                await self._until_over(events)
            elif self._silent:
                await self._over.wait()
            else:
                yield event
                continue
            yield _expired()
            return

    async def _until_over(self, events: AsyncIterator[Json]) -> None:
        """What the operator itself has to do first never comes: then the gap ends by time."""
        try:
            async with asyncio.timeout(GAP_SECONDS):
                async for event in events:
                    if _words(event) == self._until:
                        break
        except TimeoutError:
            return
        finally:
            self._silent = False
            self._over.set()


class Errors(StrikingFault):
    """The first calls of one verb and resource are answered with an error."""

    def __init__(self, where: Json) -> None:
        self._verb, self._resource = where["verb"], where["resource"]
        self._error, self._left = where["error"], where.get("times", TIMES)

    async def around(self, call: Call, forward: Forward) -> Reply:
        if (call.verb, call.resource) != (self._verb, self._resource) or self._left <= 0:
            return await forward()
        self._left -= 1
        self.struck = True
        if self._error == "slow":
            await asyncio.sleep(SLOW_SECONDS)
            return await forward()
        if self._error == "half":
            if call.verb != "watch":
                reply = await forward()
                return Reply(reply.status, reply.body[: len(reply.body) // 2], reply.headers)
            return await forward()
        return refusal(int(self._error), call)

    async def stream(self, call: Call, events: AsyncIterator[Json]) -> AsyncIterator[Json]:
        """A half-closed stream stays open and brings nothing."""
        stuck = self._error == "half" and self.struck and (call.verb, call.resource) == (
            self._verb, self._resource,
        ) and call.nth <= TIMES  # fmt: skip
        if stuck:
            await asyncio.sleep(SLOW_SECONDS)
            return
        async for event in events:
            yield event


class Pair(StrikingFault):
    """Two faults: the second waits until the first has struck."""

    def __init__(self, first: StrikingFault, then: StrikingFault) -> None:
        self._first, self._then = first, then

    @property
    def struck(self) -> bool:  # type: ignore[override]
        """Tell whether both struck."""
        return self._first.struck and self._then.struck

    def asked(self, call: Call, query: dict[str, str]) -> dict[str, str]:
        return self._first.asked(call, query)

    async def around(self, call: Call, forward: Forward) -> Reply:
        if not self._first.struck:
            return await self._first.around(call, forward)
        return await self._first.around(call, lambda: self._then.around(call, forward))

    def stream(self, call: Call, events: AsyncIterator[Json]) -> AsyncIterator[Json]:
        return self._first.stream(call, events)


def refusal(code: int, call: Call) -> Reply:
    """Return the API server's words for a status code."""
    details = {"name": call.name or "x", "kind": call.resource.partition("/")[0]}
    status = _failure(code, TEXTS[code]) | {"details": details}
    headers = {"Content-Type": "application/json"} | ({"Retry-After": "1"} if code == 429 else {})
    return Reply(code, json.dumps(status).encode(), headers)


def fault_of(plan: Plan, *, kill: Do, delete: Do) -> StrikingFault | None:
    """Return the fault of a plan, None for an undisturbed run."""

    async def nothing() -> None:
        return None

    where = plan.where
    made: dict[str, Callable[[], StrikingFault]] = {
        "kill": lambda: AtCall(where, kill, cuts=True),
        "cut": lambda: AtCall(where, nothing, cuts=True),
        "delete": lambda: AtCall(where, delete, cuts=False),
        "stale": lambda: Stale(where, kill),
        "gap": lambda: Gap(where),
        "errors": lambda: Errors(where),
        "pair": lambda: Pair(*(_part(part) for part in plan.parts())),
    }

    def _part(part: Plan) -> StrikingFault:
        fault = fault_of(part, kill=kill, delete=delete)
        assert fault is not None
        return fault

    return made[plan.mode]() if plan.mode in made else None


def _words(event: Json) -> str:
    return "" if event["type"] in ("BOOKMARK", "ERROR") else describe_event(event)


def _expired() -> Json:
    return {"type": "ERROR", "object": _failure(410, "Expired")}


def _failure(code: int, reason: str) -> Json:
    return {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": f"played: {reason}",
    }  # fmt: skip
