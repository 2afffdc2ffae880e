"""How many writes a story costs: an exact number undisturbed, a bounded one under faults.

`write_budgets.json` holds the numbers: a change that adds a write changes them too, by hand or
with `run_fault_plans.py --write-budgets`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from harness.fault_proxy import Noted

from finetune_api.conditions import PROGRESS_REASONS
from finetune_api.names import PLURALS

BUDGETS = Path(__file__).with_name("write_budgets.json")
MOST, EXACT = "most", "exact"
PASSING = {
    f"events {reason}" for reason in PROGRESS_REASONS if reason not in ("Completed", "Ready")
}
"""Events of stages, which are told if somebody looked while they lasted."""
ROOM = 8
"""Writes of a status that follow how often somebody looked: room above what was seen."""
Budget = dict[str, dict[str, int]]


def counts(noted: Iterable[Noted]) -> Counter[str]:
    """Return how often each resource, or each reason of an event, was written; refusals left out.

    What is gone may be deleted once more before the news of it is there.
    """
    found: Counter[str] = Counter()
    for call in (one.call for one in noted if one.call.writes and one.status < 400):
        told = f" {call.name}" if call.resource == "events" else ""
        deleted = "delete " if call.verb == "delete" else ""
        found[f"{deleted}{call.resource}{told}"] += 1
    return found


def is_passing(what: str) -> bool:
    """Tell whether its number depends on when somebody looked."""
    return what in PASSING or what in {f"{plural}/status" for plural in PLURALS.values()}


def budget_of(noted: Iterable[Noted]) -> Budget:
    """Return the budget that an undisturbed run sets."""
    found = counts(noted)
    most = {what: number + ROOM for what, number in found.items() if "/status" in what}
    exact = {what: number for what, number in found.items() if not is_passing(what)}
    return {EXACT: dict(sorted(exact.items())), MOST: dict(sorted(most.items()))}


def budgets() -> dict[str, Budget]:
    """Return the budgets of all stories."""
    found: dict[str, Budget] = json.loads(BUDGETS.read_text())
    return found


def over_budget(budget: Budget, noted: Iterable[Noted], strikes: int) -> list[str]:
    """Compare with the budget; each strike may cost each write once more, and look more often."""
    found = counts(noted)
    exact = Counter(budget[EXACT])
    fixed = {what: found[what] for what in found.keys() | exact.keys() if not is_passing(what)}
    broken = [
        f"{number} writes of {what}, not {exact[what]}"
        for what, number in sorted(fixed.items())
        if (number != exact[what] if not strikes else number > exact[what] + strikes)
    ]
    return broken + [
        f"{found[what]} writes of {what}, at most {most + ROOM * strikes}"
        for what, most in budget[MOST].items()
        if found[what] > most + ROOM * strikes
    ]
