"""Line charts as inline SVG, without a script or a library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

LEFT, RIGHT, TOP, BOTTOM = 58, 14, 26, 30


@dataclass(frozen=True)
class Line:
    """One named series of (step, value) points in a CSS colour."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    dots: bool = False


def line_chart(lines: Sequence[Line], unit: str, *, width: int = 1000, height: int = 300) -> str:
    """Return an SVG with axes and a legend; an empty text when there is nothing to draw."""
    shown = [line for line in lines if line.points]
    points = [point for line in shown for point in line.points if math.isfinite(point[1])]
    if not points:
        return ""
    steps, values = [x for x, _ in points], [y for _, y in points]
    low, high = min(values), max(values)
    room = (high - low or abs(high) or 1.0) * 0.06
    scale = _Scale((min(steps), max(steps)), (low - room, high + room), width, height)
    parts = [
        *(_grid_line(scale, value) for value in _ticks(low, high)),
        *(_step_label(scale, step) for step in _ticks(min(steps), max(steps))),
        *(_drawn(scale, line) for line in shown),
        *_legend(shown, unit, width),
    ]
    return f'<svg viewBox="0 0 {width} {height}" role="img">{"".join(parts)}</svg>'


@dataclass(frozen=True)
class _Scale:
    steps: tuple[float, float]
    values: tuple[float, float]
    width: int
    height: int

    def x(self, step: float) -> float:
        """Return the place of a step."""
        first, last = self.steps
        share = (step - first) / (last - first) if last > first else 0.5
        return LEFT + share * (self.width - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Return the place of a value."""
        low, high = self.values
        return TOP + (high - value) / (high - low) * (self.height - TOP - BOTTOM)


def _drawn(scale: _Scale, line: Line) -> str:
    places = [(scale.x(x), scale.y(y)) for x, y in line.points if math.isfinite(y)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{line.colour}"/>' for x, y in places
    )
    shape = (
        f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="2" '
        'stroke-linejoin="round"/>'
    )
    return shape + (dots if line.dots or len(places) == 1 else "")


def _grid_line(scale: _Scale, value: float) -> str:
    y = scale.y(value)
    return (
        f'<line x1="{LEFT}" x2="{scale.width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
        'stroke="var(--line)"/>'
        f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>'
    )


def _step_label(scale: _Scale, step: float) -> str:
    x = scale.x(step)
    return f'<text x="{x:.1f}" y="{scale.height - 8}" text-anchor="middle">{step:g}</text>'


def _legend(lines: Sequence[Line], unit: str, width: int) -> list[str]:
    parts = [f'<text x="{LEFT}" y="14">{escape(unit)}</text>']
    right = width - RIGHT
    for line in reversed(lines if len(lines) > 1 else []):
        parts.append(f'<text x="{right}" y="14" text-anchor="end">{escape(line.name)}</text>')
        right -= 7 * len(line.name) + 8
        parts.append(f'<circle cx="{right}" cy="10" r="4.5" fill="{line.colour}"/>')
        right -= 16
    return parts


def _ticks(low: float, high: float) -> list[float]:
    if high <= low:
        return [low]
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    width = next(power * one for one in (1, 2, 2.5, 5, 10) if power * one >= rough)
    first = math.ceil(low / width)
    return [round(n * width, 10) for n in range(first, math.floor(high / width) + 1)]
