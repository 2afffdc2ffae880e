"""What must hold during every run and at its end, whatever went wrong."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from faults.condition_history import ConditionHistory
from faults.normal_form import differences, normal_form
from finetune_api.names import (
    ATTEMPT_LABEL,
    COMPONENT_LABEL,
    FIELD_MANAGER,
    MANAGED_BY_LABEL,
    OWNER_UID_ANNOTATION,
    PLURALS,
)

Json = dict[str, Any]
CHILD_KINDS = ("Job", "Pod", "Service", "ConfigMap", "NetworkPolicy")


class Invariants:
    """Looks at every event of a namespace; `broken` says what did not hold."""

    def __init__(self) -> None:
        self._conditions = ConditionHistory()
        self.broken = self._conditions.broken
        self._running: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
        self._highest: dict[str, list[int]] = {}

    def seen(self, event: Json) -> None:
        """Judge one event."""
        kind = event["object"]["kind"]
        if kind == "Pod":
            self._one_attempt_at_a_time(event)
        elif kind in PLURALS and event["type"] != "DELETED":
            self._nothing_goes_back(event["object"])
            self._conditions.seen(event["object"])

    def _one_attempt_at_a_time(self, event: Json) -> None:
        pod = event["object"]
        metadata = pod["metadata"]
        labels = metadata.get("labels") or {}
        owner = (metadata.get("annotations") or {}).get(OWNER_UID_ANNOTATION, "")
        running = self._running[owner, labels.get(COMPONENT_LABEL, "")]
        phase = (pod.get("status") or {}).get("phase")
        if event["type"] == "DELETED" or phase in ("Succeeded", "Failed"):
            running.pop(metadata["uid"], None)
            return
        running[metadata["uid"]] = int(labels.get(ATTEMPT_LABEL, 0))
        if len(set(running.values())) > 1:
            self.broken.append(f"two attempts at once: {sorted(set(running.values()))}")

    def _nothing_goes_back(self, found: Json) -> None:
        status = found.get("status") or {}
        revision = status.get("revision", 0)
        latest = ((status.get("checkpoints") or {}).get("latest") or {}).get("step", 0)
        restarts = sum((status.get("restarts") or {}).values())
        known = {
            "the revision": revision,
            "the attempt": (status.get("attempt") or {}).get("number", 0),
            f"the restarts of revision {revision}": restarts,
            f"the last checkpoint of revision {revision}": latest,
        }
        for what, number in known.items():
            highest = self._highest.setdefault(f"{found['metadata']['uid']} {what}", [0])
            if number < highest[0]:
                self.broken.append(f"{what} went back from {highest[0]} to {number}")
            highest[0] = max(highest[0], number)
        step = (status.get("progress") or {}).get("step", latest)
        if step < latest:
            self.broken.append(f"step {step} is shown, the checkpoint holds {latest}")


def end_is_the_same(wanted: Json | None, found: Sequence[Json], namespace: str) -> list[str]:
    """Compare with the undisturbed end; None = there is none yet."""
    if wanted is None:
        return []
    return differences(wanted, normal_form(found, namespace))


def nothing_is_orphaned(found: Sequence[Json]) -> list[str]:
    """Every child of ours has an owner that exists."""
    alive = {known["metadata"]["uid"] for known in found}
    broken = []
    for child in found:
        labels = child["metadata"].get("labels") or {}
        if child["kind"] not in CHILD_KINDS or labels.get(MANAGED_BY_LABEL) != FIELD_MANAGER:
            continue
        owners = {owner["uid"] for owner in child["metadata"].get("ownerReferences") or ()}
        if not owners & alive:
            broken.append(f"orphan: {child['kind']} {child['metadata']['name']}")
    return broken


def the_log_is_clean(lines: Iterable[str], allowed: Sequence[str] = ()) -> list[str]:
    """No traceback, no error; `allowed` are events that a plan provokes on purpose."""
    broken = []
    for line in lines:
        try:
            said = json.loads(line)
        except ValueError:
            broken.append(f"log line that is no JSON: {line[:200]}")
            continue
        bad = said.get("level") in ("error", "critical") or "Traceback" in line
        if bad and not any(word in line for word in allowed):
            broken.append(f"log: {line[:600]}")
    return broken


def no_secret_is_told(canaries: Sequence[str], texts: dict[str, str]) -> list[str]:
    """No canary stands in anything that people read."""
    return [
        f"a secret is told in {place}"
        for place, text in texts.items()
        if any(canary in text for canary in canaries)
    ]
