"""Draws what `operator_scale.py --out` has kept, as one SVG file.

python benchmarks/operator_plot.py series.json docs/images/operator-scale.svg
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from finetune_trainer.line_chart import Line, line_chart

WIDTH, HEIGHT, GAP = 460, 230, 40
STYLE = (
    "<style>text{font:13px sans-serif;fill:#333}.title{font-weight:bold}</style>"
    '<rect width="100%" height="100%" fill="#fff"/>'
)
BLUE, RED, GREEN = "#2563eb", "#dc2626", "#059669"


def charts(series: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """Yield titles with charts: growth of cost, the burst, memory while experiments come and go."""
    sizes = {int(size): known for size, known in series["sizes"].items()}
    memory = [_growth(sizes, name, colour) for name, colour in (
        ("memory at rest", BLUE), ("peak memory", RED),
    )]  # fmt: skip
    yield "Memory by experiments", _chart(memory, "MiB")
    time = [_growth(sizes, "processor time of it", GREEN)]
    yield "Processor time of a cold start, by experiments", _chart(time, "s")
    waited = series["burst"]
    share = [(100 * (rank + 1) / len(waited), seconds) for rank, seconds in enumerate(waited)]
    yield "Create to Job, by percentile of the burst", _chart([Line("wait", share, BLUE)], "s")
    yield "Memory during churn, by seconds", _chart([Line("RSS", series["churn"], RED)], "MiB")


def drawing(series: dict[str, Any]) -> str:
    """Return all charts, two in a row, as one SVG."""
    parts = [STYLE]
    for number, (title, chart) in enumerate(charts(series)):
        x = (number % 2) * (WIDTH + GAP) + GAP / 2
        y = (number // 2) * (HEIGHT + GAP) + GAP
        place = f'<g transform="translate({x},{y})">'
        parts.append(f'{place}<text class="title" y="-12">{title}</text>{chart}</g>')
    size = f'width="{2 * (WIDTH + GAP)}" height="{2 * (HEIGHT + GAP) + GAP}"'
    namespace = 'xmlns="http://www.w3.org/2000/svg"'
    return f"<svg {namespace} {size}>{''.join(parts)}</svg>".replace("var(--line)", "#ddd")


def _growth(sizes: dict[int, dict[str, float]], name: str, colour: str) -> Line:
    points = [(size, known[name]) for size, known in sorted(sizes.items())]
    return Line(name, points, colour, dots=True)


def _chart(lines: list[Line], unit: str) -> str:
    sized = f'<svg overflow="visible" width="{WIDTH}" height="{HEIGHT}" '
    return line_chart(lines, unit, width=WIDTH, height=HEIGHT).replace("<svg ", sized, 1)


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(drawing(json.loads(Path(sys.argv[1]).read_text())))
