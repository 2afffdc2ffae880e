"""References to other objects of ours: what is missing, and how that is said."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_api.conditions import FAILED, READY
from finetune_operator.observed import Key, Observed, OurObject
from finetune_operator.status import AS_EXPECTED, Verdict, condition, holds


@dataclass(frozen=True)
class Reference:
    """A referenced object, and whether it can be used."""

    key: Key
    verdict: Verdict
    object: OurObject | None = None


def reference(observed: Observed, kind: str, name: str) -> Reference:
    """Return the object a spec refers to; its verdict is True once it is Ready."""
    key = Key(kind, observed.key.namespace, name)
    found = observed.references.get(key)
    if found is None or found.metadata.deletion_timestamp:
        message = f"{kind} {name} does not exist; create it, and this goes on by itself"
        return Reference(key, Verdict("False", "DependencyNotFound", message))
    if holds(found.status, FAILED):
        return Reference(key, Verdict("False", "DependencyFailed", _failed(kind, name, found)))
    if not holds(found.status, READY):
        state = condition(found.status, READY)
        message = f"waiting for {kind} {name}: {state.reason if state else 'not begun'}"
        return Reference(key, Verdict("False", "DependencyNotReady", message))
    return Reference(key, AS_EXPECTED, found)


def _failed(kind: str, name: str, found: OurObject) -> str:
    state = condition(found.status, READY)
    why = f"{state.reason}: {state.message}" if state else "no reason given"
    return f"{kind} {name} has failed ({why}); repair it, or refer to another"
