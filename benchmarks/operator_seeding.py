"""Thousands of finished objects, written into etcd as the API server would have stored them.

Through the API server each would cost two validated writes; here one that really went through
everything is stored again under other names.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial

import aiohttp
from operator_api import each
from operator_objects import (
    PATTERN,
    PER_DATASET,
    PER_NAMESPACE,
    dataset_name,
    experiment_name,
    namespace,
)

from finetune_api.names import DATASET, EXPERIMENT, GROUP, PLURALS

NAMESPACES = "/registry/namespaces"
AT_ONCE = 50
"""Objects in a transaction; etcd takes 1.5 MiB."""


class Etcd:
    """The etcd of an API server, by its JSON gateway."""

    def __init__(self, session: aiohttp.ClientSession, address: str) -> None:
        self._session, self._address = session, address

    async def read(self, key: str) -> bytes:
        """Return what is stored under a key."""
        body = {"key": _text(key.encode())}
        async with self._session.post(f"{self._address}/v3/kv/range", json=body) as answer:
            answer.raise_for_status()
            [found] = (await answer.json())["kvs"]
            return base64.b64decode(found["value"])

    async def write(self, pairs: list[tuple[str, bytes]]) -> None:
        """Store values under keys, in one transaction."""
        puts = [{"requestPut": {"key": _text(k.encode()), "value": _text(v)}} for k, v in pairs]
        async with self._session.post(
            f"{self._address}/v3/kv/txn", json={"success": puts}
        ) as answer:
            answer.raise_for_status()


@asynccontextmanager
async def etcd(port: int) -> AsyncIterator[Etcd]:
    """Connect to etcd."""
    async with aiohttp.ClientSession() as session:
        yield Etcd(session, f"http://127.0.0.1:{port}")


async def seed(store: Etcd, first: int, end: int) -> None:
    """Store finished experiments, their Datasets and namespaces."""
    space, run, data = PATTERN
    stored = {
        DATASET: await store.read(_key(DATASET, space, data)),
        EXPERIMENT: await store.read(_key(EXPERIMENT, space, run)),
        NAMESPACES: await store.read(f"{NAMESPACES}/{space}"),
    }
    pairs: dict[str, bytes] = {}
    for number in range(first, end):
        place = namespace(number), experiment_name(number), dataset_name(number)
        if number % PER_NAMESPACE == 0:
            pairs[f"{NAMESPACES}/{place[0]}"] = _renamed(stored[NAMESPACES], place)
        if number % PER_DATASET == 0:
            pairs[_key(DATASET, place[0], place[2])] = _renamed(stored[DATASET], place)
        pairs[_key(EXPERIMENT, *place[:2])] = _renamed(stored[EXPERIMENT], place)
    await each((partial(store.write, part) for part in _parts(list(pairs.items()))), at_once=4)


def _renamed(stored: bytes, place: Iterable[str]) -> bytes:
    """Return a stored object under other names and with a UID of its own.

    A namespace is stored in binary form: the new names are as long as the old ones.
    """
    for old, new in zip(PATTERN, place, strict=True):
        stored = stored.replace(old.encode(), new.encode())
    marker = b'"uid":"' if stored.startswith(b"{") else b"\x2a\x24"  # field 5, 36 characters
    start = stored.index(marker) + len(marker)
    old_uid = stored[start : start + 36]
    return stored.replace(old_uid, str(uuid.uuid4()).encode())


def _parts(pairs: list[tuple[str, bytes]]) -> Iterable[list[tuple[str, bytes]]]:
    return (pairs[start : start + AT_ONCE] for start in range(0, len(pairs), AT_ONCE))


def _key(kind: str, where: str, name: str) -> str:
    return f"/registry/{GROUP}/{PLURALS[kind]}/{where}/{name}"


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()
