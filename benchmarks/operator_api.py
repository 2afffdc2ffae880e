"""A small asynchronous client of a real API server, for what kubectl would be too slow for."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from harness.bare_api import BareApi
from prometheus_client.parser import text_string_to_metric_families

Manifest = dict[str, Any]
JSON_MERGE = "application/merge-patch+json"
TOUCHED = frozenset({
    "datasets", "finetuneexperiments", "modelexports", "jobs", "pods", "services", "configmaps",
    "networkpolicies", "events",
})  # fmt: skip
"""Resources an operator touches; Leases are left out, since the API server renews its own too."""
AT_ONCE = 32


class Api:
    """Calls of one API server as its administrator."""

    def __init__(self, session: aiohttp.ClientSession, api: BareApi) -> None:
        self._session, self._api = session, api

    async def get(self, path: str) -> Manifest:
        """Return what is at a path; raises ClientResponseError."""
        async with self._session.get(self._api.address + path) as answer:
            answer.raise_for_status()
            found: Manifest = await answer.json()
            return found

    async def create(self, path: str, body: Manifest) -> Manifest:
        """Create an object in a collection; one that exists already is returned as sent."""
        async with self._session.post(self._api.address + path, json=body) as answer:
            if answer.status == 409:
                return body
            return await _told(answer)

    async def merge(self, path: str, body: Manifest) -> Manifest:
        """Merge `body` into the object, or status, at a path."""
        headers = {"Content-Type": JSON_MERGE}
        async with self._session.patch(
            self._api.address + path, data=json.dumps(body), headers=headers
        ) as answer:
            return await _told(answer)

    async def delete(self, path: str) -> None:
        """Delete what is at a path at once; what is gone already is fine."""
        options = {"gracePeriodSeconds": 0, "propagationPolicy": "Background"}
        async with self._session.delete(self._api.address + path, json=options) as answer:
            if answer.status != 404:
                await _told(answer)

    async def watch(self, path: str, labels: str = "") -> AsyncIterator[Manifest]:
        """Yield changes from now on until the server ends the watch."""
        query = {"watch": "1", "labelSelector": labels, "timeoutSeconds": "3600"}
        patience = aiohttp.ClientTimeout(total=None)
        async with self._session.get(
            self._api.address + path, params=query, timeout=patience
        ) as answer:
            answer.raise_for_status()
            async for line in answer.content:
                yield json.loads(line)

    async def requests(self) -> Counter[tuple[str, str]]:
        """Return how many requests were served so far, by verb and resource, as it counts them."""
        async with self._session.get(self._api.address + "/metrics") as answer:
            text = await answer.text()
        found: Counter[tuple[str, str]] = Counter()
        lines = (line for line in text.splitlines() if line.startswith("apiserver_request_total"))
        for family in text_string_to_metric_families("\n".join(lines) + "\n"):
            for sample in family.samples:
                if sample.labels.get("resource") in TOUCHED:
                    found[sample.labels["verb"], sample.labels["resource"]] += int(sample.value)
        return found


@asynccontextmanager
async def connected(api: BareApi) -> AsyncIterator[Api]:
    """Connect as the administrator."""
    context = ssl.create_default_context(cafile=str(api.authority))
    connector = aiohttp.TCPConnector(ssl=context, limit=2 * AT_ONCE)
    headers = {"Authorization": f"Bearer {api.token()}"}
    async with aiohttp.ClientSession(
        connector=connector, headers=headers, read_bufsize=2**22, middlewares=(_patient,)
    ) as session:
        yield Api(session, api)


async def _patient(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Repeat a call while the server is restarted: the players are not what is measured."""
    for _ in range(240):
        try:
            return await handler(request)
        except aiohttp.ClientConnectionError:
            await asyncio.sleep(0.5)
    return await handler(request)


async def each(
    calls: Iterable[Callable[[], Awaitable[Any]]], *, at_once: int = AT_ONCE
) -> list[Any]:
    """Make all calls, so many at a time, and return their answers in order."""
    limit = asyncio.Semaphore(at_once)

    async def limited(call: Callable[[], Awaitable[Any]]) -> Any:
        async with limit:
            return await call()

    return await asyncio.gather(*(limited(call) for call in calls))


async def until(
    holds: Callable[[], Awaitable[bool]], what: str, *, seconds: float = 900, every: float = 0.5
) -> None:
    """Look until something holds; raises TimeoutError that says what did not."""
    try:
        async with asyncio.timeout(seconds):
            while not await holds():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(every)
    except TimeoutError as error:
        raise TimeoutError(f"waited {seconds:.0f} s for {what}") from error


async def _told(answer: aiohttp.ClientResponse) -> Manifest:
    if answer.status >= 400:
        raise RuntimeError(f"{answer.method} {answer.url}: {await answer.text()}")
    told: Manifest = await answer.json()
    return told
