"""How calls and events are named, so that another run of the same story finds them again."""

from __future__ import annotations

import re
from typing import Any

from finetune_api.names import PLURALS

Json = dict[str, Any]
_POD = re.compile(r"-[a-z0-9]{5}$")


def describe_call(resource: str, name: str, body: Any) -> tuple[str, str]:
    """Return name and detail of a call: of a status what it says, of an event its reason."""
    if resource == "events" and isinstance(body, dict):
        return str(body.get("reason")), ""
    if resource.endswith("/status") and isinstance(body, list):
        said = next((part["value"] for part in body if part["path"] == "/status"), {})
        return name, describe_status(said)
    return name, ""


def describe_status(status: Json) -> str:
    """Return in a few words how far an object of ours is."""
    ready = next((c for c in status.get("conditions") or () if c["type"] == "Ready"), {})
    attempt, preparation = status.get("attempt") or {}, status.get("preparation") or {}
    words = [str(ready.get("reason", "-"))]
    words += [f"r{status.get('revision', 0)}", f"a{attempt.get('number', 0)}"]
    words += [f"ended:{attempt['ended']}"] if attempt.get("ended") else []
    words += [f"p{preparation['attempt']}"] if preparation.get("attempt") else []
    words += [f"prepared:{preparation['ended']}"] if preparation.get("ended") else []
    children = status.get("children") or {}
    return " ".join(words + sorted(str(name) for name in children.values() if name))


def describe_event(event: Json) -> str:
    """Return kind, name and state of an event's object: equal words, nothing new."""
    found = event["object"]
    metadata, status = found["metadata"], found.get("status") or {}
    name = _POD.sub("", metadata["name"]) if found["kind"] == "Pod" else metadata["name"]
    words = [found["kind"], name]
    if event["type"] == "DELETED":
        return " ".join([*words, "gone"])
    if found["kind"] == "Pod":
        words += ["bound"] if (found.get("spec") or {}).get("nodeName") else []
        words.append(str(status.get("phase")))
    elif found["kind"] == "Job":
        words += [c["type"] for c in status.get("conditions") or () if c["status"] == "True"]
    elif found["kind"] in PLURALS:
        words += [f"g{metadata.get('generation')}", describe_status(status)]
    words += ["deleting"] if metadata.get("deletionTimestamp") else []
    return " ".join(words)
