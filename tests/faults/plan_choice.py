"""Which plans an undisturbed run gives rise to, and which of them could change nothing."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from harness.fault_proxy import Noted

from faults.fault_modes import MOMENTS, TEXTS
from faults.fault_plan import Plan, pair
from faults.plan_run import Result

Json = dict[str, Any]
ERRORS = (*map(str, TEXTS), "slow", "half")


def plans_of(learned: Result) -> list[Plan]:
    """Return every plan that a learned run gives rise to."""
    name = learned.plan.scenario
    return [
        *(Plan(name, "kill", where) for where in kills(learned.noted)),
        *(Plan(name, "cut", where) for where in cuts(learned.noted)),
        *(Plan(name, "stale", where) for where in pairs(learned.events)),
        *(Plan(name, "gap", where) for where in pairs(learned.events)),
        *(Plan(name, "errors", where) for where in errors(learned.noted)),
        *(Plan(name, "delete", where) for where in deletions(learned.noted)),
    ]


def pairs_of(plans: Sequence[Plan], count: int, seed: int) -> list[Plan]:
    """Draw pairs of faults of the same story; the second is one that acts on calls."""
    drawn = random.Random(f"pairs {seed}")
    first = [plan for plan in plans if plan.mode != "delete"]
    then: dict[str, list[Plan]] = {}
    for plan in plans:
        if plan.mode in ("kill", "cut", "delete") or plan.where.get("verb") not in (None, "watch"):
            then.setdefault(plan.scenario, []).append(plan)
    if not first:
        return []
    chosen = (drawn.choice(first) for _ in range(count))
    return [pair(plan, drawn.choice(then[plan.scenario])) for plan in chosen]


def kills(noted: Iterable[Noted]) -> list[Json]:
    """Every write, before it is forwarded and when it was applied without a reply.

    A killed process forgets whether it had the reply, so the third moment is the second one; and
    an Event is no part of any decision, so a kill at it is a kill after the status before it.
    """
    lasting = [n for n in _writes(noted) if n.call.resource != "events"]
    return [{"call": asdict(n.call), "moment": m} for n in lasting for m in MOMENTS[:2]]


def cuts(noted: Iterable[Noted]) -> list[Json]:
    """Every write at the same moments; a connection that is cut after the reply changes nothing."""
    return [{"call": asdict(n.call), "moment": m} for n in _writes(noted) for m in MOMENTS[:2]]


def deletions(noted: Iterable[Noted]) -> list[Json]:
    """The object is deleted just before each write."""
    return [{"call": asdict(n.call)} for n in _writes(noted)]


def pairs(events: Iterable[str]) -> list[Json]:
    """Each state of an object with the one that cancels it; equal words say nothing new."""
    last: dict[tuple[str, ...], str] = {}
    found = []
    for words in events:
        thing = tuple(words.split(" ")[:2])
        before = last.get(thing)
        if before is not None and before != words:
            found.append({"since": before, "until": words})
        last[thing] = words
    return [where for n, where in enumerate(found) if where not in found[:n]]


def errors(noted: Iterable[Noted]) -> list[Json]:
    """Every error for every verb and resource that the operator used."""
    used = sorted({(n.call.verb, n.call.resource) for n in noted})
    return [
        {"verb": verb, "resource": resource, "error": error}
        for verb, resource in used
        for error in ERRORS
        if resource != "leases"
    ]


def _writes(noted: Iterable[Noted]) -> list[Noted]:
    return [n for n in noted if n.call.writes and n.changed and 200 <= n.status < 300]
