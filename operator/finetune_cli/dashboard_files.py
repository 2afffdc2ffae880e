"""The generated Grafana dashboards, for the repository and for the chart.

Their definitions lie in `dashboards/` beside the packages: only a checkout of the repository has
them, an installed command line has nothing to generate.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLACES = ("dashboards", "helm/finetune-operator/dashboards")


def dashboard_files() -> dict[str, str]:
    """Return the text of each dashboard by its paths below the repository."""
    if not (ROOT / "dashboards" / "panels.py").exists():
        return {}
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    boards: dict[str, str] = importlib.import_module("dashboards.panels").boards()
    return {f"{place}/{name}": text for name, text in boards.items() for place in PLACES}
