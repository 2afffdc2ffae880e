"""What every benchmark prints: a table for people, one JSON line per figure, the versions used."""

from __future__ import annotations

import json
import platform
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version


@dataclass(frozen=True)
class Figure:
    """One measured value; `target` is None where none was set, `met` then too."""

    name: str
    value: float
    unit: str
    target: float | None = None
    at_most: bool = False
    """at_most says on which side of the target a value is good."""
    spread: tuple[float, float] | None = None
    """spread is the lowest and the highest of the repetitions."""

    @property
    def met(self) -> bool | None:
        """Tell whether the target is met."""
        if self.target is None:
            return None
        return self.value <= self.target if self.at_most else self.value >= self.target

    def line(self) -> str:
        """Return the figure as a line of JSON."""
        shown = asdict(self) | {"met": self.met}
        del shown["at_most"]
        return json.dumps(shown)


def ratio(
    name: str, ours: Sequence[float], theirs: Sequence[float], target: float | None = None
) -> Figure:
    """Return the median of the ratios of each pair, with their spread.

    Pairs, not sums, because a shared machine drifts: both halves of a pair meet the same weather.
    """
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    spread = min(ratios), max(ratios)
    return Figure(name, statistics.median(ratios), "x", target, spread=spread)


def median(name: str, values: Sequence[float], unit: str) -> Figure:
    """Return the median of repetitions without a target."""
    return Figure(name, statistics.median(values), unit, spread=(min(values), max(values)))


def report(figures: Iterable[Figure], packages: Sequence[str] = ()) -> None:
    """Print the table and, behind it, one JSON line per figure and one with the versions."""
    figures = list(figures)
    width = max(len(one.name) for one in figures)
    print(f"{'figure':{width}}  {'value':>10} {'unit':9} {'low - high':>21}  target")
    for one in figures:
        spread = "{:.4g} - {:.4g}".format(*one.spread) if one.spread else ""
        print(f"{one.name:{width}}  {one.value:10.4g} {one.unit:9} {spread:>21}  {_target(one)}")
    print()
    for one in figures:
        print(one.line())
    print(json.dumps({"versions": versions(packages)}))
    sys.stdout.flush()


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of Python and of installed packages."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _target(one: Figure) -> str:
    if one.target is None:
        return ""
    return f"{'<=' if one.at_most else '>='} {one.target:g} {'met' if one.met else 'MISSED'}"
