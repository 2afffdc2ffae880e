"""Whether the conditions of an object contradict each other, or what they said before."""

from __future__ import annotations

from typing import Any

from finetune_api.conditions import CONDITION_TYPES

Json = dict[str, Any]
SHARED = ("Ready", "Reconciling", "Stalled", "Complete", "Failed", "Suspended")
ROWS = {
    ("False", "True", "False", "False", "False", "False"): "under way",
    ("False", "True", "False", "False", "False", "Unknown"): "stopping",
    ("False", "False", "False", "False", "False", "True"): "suspended",
    ("True", "False", "False", "True", "False", "False"): "finished",
    ("False", "False", "True", "False", "False", "False"): "refused",
    ("False", "False", "True", "False", "True", "False"): "failed",
}
"""What kstatus, Argo CD and people read: no other combination of `SHARED` has a meaning."""
LASTING = ("Complete", "Failed")
"""They end a revision."""


class ConditionHistory:
    """Looks at every version of our objects; `broken` says what did not hold."""

    def __init__(self) -> None:
        self.broken: list[str] = []
        self._before: dict[str, Json] = {}

    def seen(self, found: Json) -> None:
        """Judge one version; what no operator has signed with its fence is not the operator's."""
        uid, status = found["metadata"]["uid"], found.get("status") or {}
        before = self._before.get(uid, {})
        self._before[uid] = status
        if not status.get("fence"):
            return
        kind, generation = found["kind"], found["metadata"].get("generation", 0)
        wrong = [*_of_one_moment(kind, status, generation), *_over_time(before, status)]
        self.broken += [f"{kind}: {sentence}" for sentence in wrong]


def _of_one_moment(kind: str, status: Json, generation: int) -> list[str]:
    conditions = status.get("conditions") or []
    types, known = [c["type"] for c in conditions], _by_type(status)
    wrong = []
    if sorted(types) != sorted(CONDITION_TYPES[kind]):
        wrong.append(f"its conditions are {sorted(types)}")
    row = tuple(known.get(name, {}).get("status", "absent") for name in SHARED)
    if row not in ROWS:
        wrong.append(f"conditions contradict: {dict(zip(SHARED, row, strict=True))}")
    wrong += [
        f"{c['type']} observed generation {c.get('observedGeneration')} of {generation}"
        for c in conditions
        if not 0 < c.get("observedGeneration", 0) <= generation
    ]
    return wrong


def _over_time(before: Json, status: Json) -> list[str]:
    known, wrong = _by_type(before), []
    if _generation(status) < _generation(before):
        wrong.append(f"observedGeneration went back to {_generation(status)}")
    for name, now in _by_type(status).items():
        past = known.get(name)
        if past is None:
            continue
        if _generation(now) < _generation(past):
            wrong.append(f"{name} went back to generation {_generation(now)}")
        if now["lastTransitionTime"] < past["lastTransitionTime"]:
            wrong.append(f"{name} changed at {now['lastTransitionTime']}, before it did last")
        same = now["status"] == past["status"]
        if same and now["lastTransitionTime"] != past["lastTransitionTime"]:
            wrong.append(f"{name} stayed {now['status']} and says that it changed")
        ended = name in LASTING and past["status"] == "True" and not same
        if ended and status.get("revision") == before.get("revision"):
            wrong.append(f"{name} turned back within revision {status['revision']}")
    return wrong


def _by_type(status: Json) -> dict[str, Json]:
    return {c["type"]: c for c in status.get("conditions") or ()}


def _generation(told: Json) -> int:
    return int(told.get("observedGeneration") or 0)
