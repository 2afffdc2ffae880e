"""A plan: one scenario, one fault, where it strikes. One line of JSON runs it again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

MODES = ("learn", "kill", "cut", "stale", "gap", "errors", "delete")


@dataclass(frozen=True)
class Plan:
    """What is done to which run."""

    scenario: str
    mode: str = "learn"
    where: dict[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """Return the plan as one line."""
        return json.dumps(asdict(self), separators=(",", ":"), sort_keys=True)


def plan_of(line: str) -> Plan:
    """Read what `Plan.line` wrote; raises ValueError."""
    told = json.loads(line)
    if not isinstance(told, dict) or told.get("mode") not in MODES:
        raise ValueError(f"not a plan: {line}")
    return Plan(**told)
