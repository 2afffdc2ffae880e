"""Runs fault plans: all of them, a seeded sample, or the one that a failure printed."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import logging
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from faults.admin_api import Json
from faults.fault_ground import Ground, fault_ground
from faults.fault_plan import MODES, Plan, plan_of
from faults.fault_scenarios import SCENARIOS
from faults.plan_choice import pairs_of, plans_of
from faults.plan_run import Known, PlanRun, Result
from faults.write_counts import BUDGETS, Budget, budget_of, budgets

REPORT_EVERY = 25
PAIRS = 400
AT_ONCE = 12
"""Plans side by side: most of their time is waiting."""


@dataclass
class Campaign:
    """Runs plans side by side and counts what came of them."""

    ground: Ground
    ends: dict[str, Json] = field(default_factory=dict)
    """ends of undisturbed runs, by scenario."""
    budgets: dict[str, Budget] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    at_once: int = AT_ONCE
    logs: Path | None = None
    until: float = float("inf")
    _numbers: itertools.count = field(default_factory=itertools.count)  # type: ignore[type-arg]

    async def learn(self, scenarios: Iterable[str]) -> list[Result]:
        """Run stories undisturbed; their ends are what all plans are measured by."""
        learned = await self.run([Plan(name) for name in scenarios])
        self.ends = {result.plan.scenario: result.end for result in learned}
        return learned

    def stop(self) -> None:
        """Begin no further plan."""
        self.until = 0.0

    async def run(self, plans: Sequence[Plan]) -> list[Result]:
        """Run plans; none begins after `until`."""
        room = asyncio.Semaphore(self.at_once)
        done: list[Result] = []

        async def one(plan: Plan) -> None:
            async with room:
                if time.monotonic() < self.until:
                    done.append(await self._one(plan))
                    if len(done) % REPORT_EVERY == 0:
                        print(f"{len(done)} of {len(plans)} plans run", flush=True)

        async with asyncio.TaskGroup() as group:
            for plan in plans:
                group.create_task(one(plan))
        self.results += done
        return done

    async def _one(self, plan: Plan) -> Result:
        name = f"plan-{next(self._numbers)}"
        known = Known(self.ends.get(plan.scenario), self.budgets.get(plan.scenario))
        run = PlanRun(self.ground, plan, name, known)
        started = time.monotonic()
        result = await run.run()
        took = time.monotonic() - started
        if result.broken:
            print(f"FAILED after {took:.0f} s ({name}): PLAN='{plan.line()}'")
            for sentence in result.broken:
                print(f"  {sentence}", flush=True)
            if self.logs:
                shutil.copytree(run.folder, self.logs / name, dirs_exist_ok=True)
        return result


def table(results: Iterable[Result]) -> str:
    """Return plans run, survived and never struck, per scenario and mode."""
    run, lost, idle = Counter(), Counter(), Counter()  # type: ignore[var-annotated]
    for result in results:
        key = (result.plan.scenario, result.plan.mode)
        run[key] += 1
        lost[key] += bool(result.broken)
        idle[key] += not result.struck
    lines = ["survived/run (never struck)", f"{'scenario':20}" + "".join(f"{m:>14}" for m in MODES)]
    for scenario in SCENARIOS:
        cells = []
        for mode in MODES:
            key = (scenario, mode)
            unmet = f" ({idle[key]})" if idle[key] else ""
            cells.append(f"{run[key] - lost[key]}/{run[key]}{unmet}" if run[key] else "-")
        if any(cell != "-" for cell in cells):
            lines.append(f"{scenario:20}" + "".join(f"{cell:>14}" for cell in cells))
    total, failed = sum(run.values()), sum(lost.values())
    lines.append(f"{total} plans run, {total - failed} survived, {sum(idle.values())} never struck")
    return "\n".join(lines)


def write_budgets(learned: Iterable[Result]) -> dict[str, Budget]:
    """Replace the budgets of the stories that were learned.

    What vanishes first with a namespace is not the operator's to say: that story has no budget.
    """
    steady = (one for one in learned if not (one.broken or SCENARIOS[one.plan.scenario].everywhere))
    fresh = {one.plan.scenario: budget_of(one.noted) for one in steady}
    found = dict(sorted((budgets() | fresh).items()))
    BUDGETS.write_text(f"{json.dumps(found, indent=2)}\n")
    return found


async def campaign(chosen: argparse.Namespace) -> int:
    """Run what was asked for; return 1 if a plan failed."""
    began, loop = time.monotonic(), asyncio.get_running_loop()
    if (task := asyncio.current_task()) is not None:
        loop.add_signal_handler(signal.SIGTERM, task.cancel)  # nothing is left running
    only = plan_of(chosen.plan) if chosen.plan else None
    scenarios = [only.scenario] if only else chosen.scenarios or list(SCENARIOS)
    async with fault_ground() as ground:
        work = Campaign(ground, at_once=chosen.at_once, logs=chosen.logs)
        work.budgets = {} if chosen.write_budgets else budgets()
        loop.add_signal_handler(signal.SIGINT, work.stop)
        learned = await work.learn(scenarios)
        if chosen.write_budgets:
            work.budgets = write_budgets(learned)
        if any(result.broken for result in learned):
            return 1
        plans = [plan for result in learned for plan in plans_of(result)]
        plans += pairs_of(plans, chosen.pairs, chosen.seed)
        print(f"{len(plans)} plans from {len(learned)} undisturbed runs")
        if only:
            plans = [only]
        elif chosen.modes:
            plans = [plan for plan in plans if plan.mode in chosen.modes]
        random.Random(chosen.seed).shuffle(plans)
        if chosen.seconds:
            work.until = min(work.until, began + chosen.seconds)
        await work.run(plans[: chosen.sample])
        print(table(work.results))
    return int(any(result.broken for result in work.results))


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write-budgets", action="store_true", help="learn what a story costs")
    parser.add_argument("--plan", help="one plan as a failure printed it")
    parser.add_argument("--sample", type=int, help="run only so many")
    parser.add_argument("--seed", type=int, default=1, help="of order and sample")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="draw so many pairs of faults")
    parser.add_argument("--seconds", type=float, help="begin no plan after so many")
    parser.add_argument("--scenarios", nargs="*", choices=list(SCENARIOS))
    parser.add_argument("--modes", nargs="*", choices=MODES[1:])
    parser.add_argument("--at-once", type=int, default=AT_ONCE)
    parser.add_argument("--logs", type=Path, help="keep the operator's logs of failed plans here")
    return parser.parse_args(words)


if __name__ == "__main__":
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # cut connections are meant
    sys.exit(asyncio.run(campaign(arguments())))
