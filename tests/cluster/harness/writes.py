"""Who wrote what to the API server, from its audit log: for statements about what was not done."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from harness.control_plane import WRITES


@dataclass(frozen=True)
class Write:
    """One write that the API server answered; 201 = it made the object."""

    time: datetime
    user: str
    verb: str
    resource: str
    namespace: str
    name: str
    code: int


def writes(namespace: str | None = None, *, since: datetime | None = None) -> Iterator[Write]:
    """Yield the writes, perhaps those to one namespace or received after a moment alone."""
    with WRITES.open(encoding="utf-8") as lines:
        for line in lines:
            write = _write(json.loads(line))
            if namespace in (None, write.namespace) and (since is None or write.time > since):
                yield write


def _write(event: dict) -> Write:
    what = event.get("objectRef") or {}
    return Write(
        time=datetime.fromisoformat(event["requestReceivedTimestamp"]),
        user=event["user"].get("username", ""),  # nobody: the client went before it was known
        verb=event["verb"],
        resource=what.get("resource", ""),
        namespace=what.get("namespace", ""),
        name=what.get("name", ""),
        code=(event.get("responseStatus") or {}).get("code", 0),
    )
