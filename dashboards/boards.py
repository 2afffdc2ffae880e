"""Every dashboard; `make generate` writes them as JSON."""

from __future__ import annotations

import json

from dashboards.fleet import fleet_board, operator_board
from dashboards.panels import experiment_board


def boards() -> dict[str, str]:
    """Return every dashboard as JSON text by its file name."""
    found = {
        "experiment.json": experiment_board(),
        "fleet.json": fleet_board(),
        "operator.json": operator_board(),
    }
    return {name: json.dumps(board, indent=2) + "\n" for name, board in found.items()}
