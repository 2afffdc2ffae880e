"""A plan: one scenario, one fault or two, where they strike. One line of JSON runs it again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

MODES = ("learn", "kill", "cut", "stale", "gap", "errors", "delete", "pair")


@dataclass(frozen=True)
class Plan:
    """What is done to which run."""

    scenario: str
    mode: str = "learn"
    where: dict[str, Any] = field(default_factory=dict)

    def parts(self) -> tuple[Plan, ...]:
        """Return the plan of each fault, in the order in which they may strike."""
        if self.mode != "pair":
            return (self,)
        return tuple(Plan(self.scenario, **self.where[name]) for name in ("first", "then"))

    def line(self) -> str:
        """Return the plan as one line."""
        return json.dumps(asdict(self), separators=(",", ":"), sort_keys=True)


def pair(first: Plan, then: Plan) -> Plan:
    """Return the plan in which `then` may strike once `first` has."""
    where = {
        name: {"mode": plan.mode, "where": plan.where}
        for name, plan in (("first", first), ("then", then))
    }
    return Plan(first.scenario, "pair", where)


def plan_of(line: str) -> Plan:
    """Read what `Plan.line` wrote; raises ValueError."""
    told = json.loads(line)
    if not isinstance(told, dict) or told.get("mode") not in MODES:
        raise ValueError(f"not a plan: {line}")
    return Plan(**told)
