"""What rank 0 tells of each step once the device has finished it: rates, shares and phases."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from finetune_trainer.plan import Plan, Step
from finetune_trainer.progress import Board
from finetune_trainer.step_clock import DATA, PHASES
from finetune_trainer.step_flops import ModelFlops

WINDOW_STEPS = 50


@dataclass(frozen=True)
class StepFacts:
    """What a step asks of all ranks, known from the plan."""

    done: int
    epoch: float
    tokens: int
    supervised: int
    samples: int
    flops: int
    fill: float
    """tokens / (micro-batches x their budget)"""
    imbalance: float
    """heaviest rank / mean rank - 1, in operations"""
    padding: float
    """share of padding in the rows of all ranks; 0 when samples lie end to end"""


@dataclass(frozen=True)
class Machine:
    """What the run runs on."""

    ranks: int
    peak: float | None
    """peak operations per second of one device, None where it is not known"""


class StepReport:
    """Pairs the facts of a step with its seconds, which come later, and puts both on the board."""

    def __init__(self, board: Board, plan: Plan, flops: ModelFlops, machine: Machine) -> None:
        self._board, self._plan, self._flops, self._machine = board, plan, flops, machine
        self._issued: deque[StepFacts] = deque()
        self._window: deque[tuple[StepFacts, dict[str, float]]] = deque(maxlen=WINDOW_STEPS)

    def issued(self, step: Step) -> None:
        """Take in a step that the host has just issued."""
        self._issued.append(step_facts(step, self._plan, self._flops, self._machine.ranks))

    def finished(self, times: Iterator[dict[str, float]]) -> None:
        """Show the steps whose seconds by phase have come."""
        for phases in times:
            facts = self._issued.popleft()
            self._window.append((facts, phases))
            self._show(facts, phases)

    def forget(self) -> None:
        """Drop what is under way: the run goes back to an earlier step."""
        self._issued.clear()

    def _show(self, facts: StepFacts, phases: dict[str, float]) -> None:
        board, total = self._board, self._plan.total_steps
        seconds = sum(phases.values())
        board.gauge("train_step", facts.done)
        board.gauge("train_steps", total)
        board.count("train_tokens", facts.tokens)
        board.count("train_supervised_tokens", facts.supervised)
        board.count("train_samples", facts.samples)
        board.observe("train_step_seconds", seconds)
        board.observe("train_data_wait_seconds", phases[DATA])
        for phase, one in phases.items():
            board.observe("train_phase_seconds", one, phase=phase)
        board.step_values(
            tokens=facts.tokens,
            seconds=seconds,
            step=facts.done,
            total_steps=total,
            percentage=100 * facts.done // total,
            epoch=facts.epoch,
            fill=facts.fill,
            imbalance=facts.imbalance,
            padding=facts.padding,
            **self._rates(),
            eta_seconds=self._mean_seconds() * (total - facts.done),
        )

    def _rates(self) -> dict[str, object]:
        spent = max(1e-9, sum(sum(phases.values()) for _, phases in self._window))
        ordered = sorted(sum(phases.values()) for _, phases in self._window)
        found: dict[str, object] = {
            "tokens_per_second": sum(one.tokens for one, _ in self._window) / spent,
            "supervised_tokens_per_second": sum(one.supervised for one, _ in self._window) / spent,
            "median_step_seconds": ordered[len(ordered) // 2],
            "phase_seconds": {
                phase: sum(one[phase] for _, one in self._window) / len(self._window)
                for phase in PHASES
            },
        }
        if self._machine.peak is not None:
            flops = sum(one.flops for one, _ in self._window)
            found["mfu"] = flops / spent / (self._machine.peak * self._machine.ranks)
        return found

    def _mean_seconds(self) -> float:
        return sum(sum(phases.values()) for _, phases in self._window) / len(self._window)


def step_facts(step: Step, plan: Plan, flops: ModelFlops, ranks: int) -> StepFacts:
    """Return the facts of a step that `ranks` ranks share."""
    index = plan.index(step.epoch)

    def needed(samples: tuple[int, ...]) -> int:
        chosen = list(samples)
        lengths = index.lengths[chosen]
        rows = int(index.supervised[chosen].sum())
        return flops.of(int(lengths.sum()), rows, int((lengths**2).sum()))

    costs = [needed(one) for one in step.micro_batches]
    loads = [sum(costs[one] for one in hand if one is not None) for hand in plan.hands(step, ranks)]
    cells = step.tokens
    if plan.settings.padded:
        cells = sum(
            len(one) * int(index.lengths[list(one)].max(initial=0)) for one in step.micro_batches
        )
    return StepFacts(
        done=step.number + 1,
        epoch=plan.epoch_after(step.number),
        tokens=step.tokens,
        supervised=step.supervised,
        samples=len(step.samples),
        flops=sum(costs),
        fill=step.tokens / (len(step.micro_batches) * plan.settings.budget),
        imbalance=max(loads) / max(1.0, float(np.mean(loads))) - 1,
        padding=1 - step.tokens / cells,
    )
