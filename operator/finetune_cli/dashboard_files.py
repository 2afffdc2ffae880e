"""The generated Grafana dashboards and alerts, for the repository and for the chart.

Their definitions lie in `dashboards/` beside the packages: only a checkout of the repository has
them, an installed command line has nothing to generate.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHART = "helm/finetune-operator"
PLACES = ("dashboards", f"{CHART}/dashboards")


def dashboard_files() -> dict[str, str]:
    """Return the text of each dashboard and of the alerts by paths below the repository."""
    if not (ROOT / "dashboards" / "boards.py").exists():
        return {}
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    boards: dict[str, str] = importlib.import_module("dashboards.boards").boards()
    files = {f"{place}/{name}": text for name, text in boards.items() for place in PLACES}
    rules: str = importlib.import_module("dashboards.alerts").rules()
    return files | {"dashboards/alerts.yaml": rules, f"{CHART}/alerts/alerts.yaml": rules}
