"""kopf's handlers: every event of our kinds goes into the cache and the queue, nothing else.

Only `on.event` is used: it alone writes nothing to the objects. kopf drops an event whose
handler fails, so the handler does nothing that can.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import kopf

from finetune_api.names import GROUP, PLURALS, VERSION
from finetune_operator.cluster.api_transport import Connection
from finetune_operator.errors import CredentialsError, UnavailableError
from finetune_operator.informers import ObjectSink
from finetune_operator.observed import Manifest
from finetune_operator.work_queue import Lane

Sinks = Mapping[str, ObjectSink]


async def run(
    sinks: Sinks, connection: Callable[[], Awaitable[Connection]], *,
    namespaces: tuple[str, ...], ready: asyncio.Event, stop: asyncio.Event,
) -> None:  # fmt: skip
    """Watch our kinds until `stop` is set; returns earlier only if kopf fails.

    Raises CredentialsError if the API server refused them, UnavailableError if a watch ended:
    the process is started again.
    """
    registry = kopf.OperatorRegistry()
    register(registry, sinks)
    register_login(registry, connection)
    try:
        await kopf.operator(
            registry=registry,
            settings=watch_settings(),
            # kopf would look for a user name, and an arbitrary user id has none; nobody reads it.
            identity="finetune-operator",
            standalone=True,
            clusterwide=not namespaces,
            namespaces=namespaces,
            ready_flag=ready,
            stop_flag=stop,
        )
    except kopf.LoginError as error:  # kopf takes no credentials twice, not even good ones
        raise CredentialsError("401 Unauthorized: the watch was refused") from error
    except Exception as error:  # kopf raises whatever ended one of its watches, and logs it
        raise UnavailableError(f"a watch of our kinds ended ({type(error).__name__})") from error


def register(registry: kopf.OperatorRegistry, sinks: Sinks) -> None:
    """Add one event handler per kind to `registry`; nothing is registered at import."""
    for kind, sink in sinks.items():
        plural = PLURALS[kind]
        kopf.on.event(GROUP, VERSION, plural, registry=registry, id=plural)(_handler(sink))


def register_login(
    registry: kopf.OperatorRegistry, connection: Callable[[], Awaitable[Connection]]
) -> None:
    """Make kopf connect exactly as our own client does."""

    async def login(**_kwargs: Any) -> kopf.ConnectionInfo:
        facts = await connection()
        scheme, _, token = (facts.authorization or "").rpartition(" ")
        return kopf.ConnectionInfo(
            server=facts.server,
            ca_path=facts.ca_file,
            insecure=facts.insecure,
            scheme=scheme or None,
            token=token or None,
            certificate_path=facts.certificate_file,
            private_key_path=facts.key_file,
        )

    kopf.on.login(registry=registry, id="connection")(login)


def watch_settings() -> kopf.OperatorSettings:
    """Return kopf's settings; each differs from its default for a reason seen in runs."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False  # our own events
    settings.peering.standalone = True  # our own Lease
    settings.scanning.disabled = True  # no rights on CRDs and namespaces are needed
    watching, networking = settings.watching, settings.networking
    watching.chunk_size, watching.reconnect_backoff = 500, 1.0
    watching.server_timeout, watching.client_timeout, watching.connect_timeout = 300, 330, 5
    watching.inactivity_timeout = 90  # bookmarks come about once a minute
    networking.request_timeout, networking.connect_timeout = 30, 5
    networking.error_backoffs = [1, 1, 2, 3] + [5] * 130  # about 11 minutes; back within seconds
    networking.enforce_retry_after = True
    settings.persistence.diffbase_storage = _NoDiffs()
    settings.queueing.idle_timeout = 0.2  # a task per object lives that long
    return settings


class _NoDiffs(kopf.DiffBaseStorage):  # type: ignore[misc] # kopf is seen without its types
    """Spares the copies of every object that kopf takes to tell handlers of ours what changed.

    We have none that asks, and the copies were half of what a first list costs.
    """

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        return


def _handler(sink: ObjectSink) -> Any:
    async def on_change(type: str | None, event: Any, **_: Any) -> None:  # noqa: A002 - kopf's
        item: Manifest = event["object"]
        key = sink.seen(item, lane=Lane.PATIENT if type is None else Lane.URGENT)
        if type == "DELETED":
            sink.vanished(key)

    return on_change
