"""Figures of an operator: what a process used, what its metrics say, how they are named."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench_report import Figure
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from finetune_operator.settings import Settings


@dataclass(frozen=True)
class Rest:
    """What a process used while nothing but progress happened."""

    resident_mib: float
    peak_mib: float
    cores: float
    seconds: float


def default_budget() -> float:
    """Return the operator's own default of writes per second."""
    default: float = Settings.model_fields["writes_per_second"].default
    return default


def at_size(size: int, *, is_goal: bool) -> Callable[[str, float, str, float | None], Figure]:
    """Return what makes figures of a size; only the largest has targets."""

    def made(name: str, value: float, unit: str, target: float | None) -> Figure:
        return at_most(f"{name}, {size} experiments", value, unit, target if is_goal else None)

    return made


def at_most(name: str, value: float, unit: str, target: float | None) -> Figure:
    """Return a figure whose target is an upper bound."""
    return Figure(name, value, unit, target, at_most=True)


def resident_mib(pid: int, field: str = "VmRSS") -> float:
    """Return the memory of a process: VmRSS now, VmHWM at its peak."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def threads(pid: int) -> int:
    """Return the number of threads of a process."""
    return len(os.listdir(f"/proc/{pid}/task"))


def descriptors(pid: int) -> int:
    """Return the number of open files and sockets of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def metric_sum(text: str, name: str, **labels: str) -> float:
    """Return the sum of the samples of a metric that carry the labels."""
    lines = [line for line in text.splitlines() if line.startswith((name, f"# TYPE {name}"))]
    families = text_string_to_metric_families("\n".join([*lines, "# EOF", ""]))
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if labels.items() <= sample.labels.items()
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that a share of all values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the rise of a straight line through points, per unit of their first coordinate."""
    xs, ys = zip(*points, strict=True)
    return statistics.linear_regression(xs, ys).slope
