"""How Grafana dashboards are laid out from rows of panels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

COLUMNS = 24
SOURCE = {"type": "prometheus", "uid": "$datasource"}
SCHEMA_VERSION = 41


@dataclass(frozen=True)
class Panel:
    """One panel: what it shows, why one looks at it, and its queries by legend."""

    title: str
    description: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    logarithmic: bool = False


Rows = tuple[tuple[str, tuple[Panel, ...]], ...]


def board(name: str, description: str, rows: Rows, *variables: dict[str, Any]) -> dict[str, Any]:
    """Return a dashboard of rows of panels; the data source is its first variable."""
    return {
        "uid": f"finetune-{name}",
        "title": f"Fine-tuning: {name}",
        "description": description,
        "tags": ["finetune-operator"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": [_data_source(), *variables]},
        "panels": _laid_out(rows),
    }


def _laid_out(rows: Rows) -> list[dict[str, Any]]:
    """Return rows and panels with places and numbers, filled from the left."""
    found: list[dict[str, Any]] = []
    top = 0
    for title, panels in rows:
        found.append(_row(title, len(found) + 1, top))
        top, left = top + 1, 0
        for panel in panels:
            if left + panel.width > COLUMNS:
                top, left = top + panel.height, 0
            place = {"x": left, "y": top, "w": panel.width, "h": panel.height}
            found.append({"id": len(found) + 1, "gridPos": place, **_panel(panel)})
            left += panel.width
        top += panels[-1].height
    return found


def _row(title: str, number: int, top: int) -> dict[str, Any]:
    place = {"x": 0, "y": top, "w": COLUMNS, "h": 1}
    return {
        "id": number,
        "type": "row",
        "title": title,
        "collapsed": False,
        "gridPos": place,
        "panels": [],
    }


def _panel(panel: Panel) -> dict[str, Any]:
    is_state = panel.kind == "state"
    return {
        "type": "stat" if is_state else panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": SOURCE,
                "expr": query,
                "legendFormat": legend,
                "instant": panel.kind != "timeseries",
                "range": panel.kind == "timeseries",
            }
            for number, (legend, query) in enumerate(panel.queries)
        ],
        "fieldConfig": {"defaults": _field_defaults(panel), "overrides": []},
        "options": _options(panel),
    }


def _field_defaults(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "noValue": "-"}
    if panel.kind == "gauge":
        defaults |= {"min": 0, "max": 1}
    if panel.kind == "timeseries":
        scale = {"type": "log", "log": 10} if panel.logarithmic else {"type": "linear"}
        defaults["custom"] = {
            "lineWidth": 1,
            "fillOpacity": 5,
            "showPoints": "auto",
            "spanNulls": False,
            "scaleDistribution": scale,
        }
    return defaults


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "timeseries":
        return {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    reduce = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    if panel.kind == "gauge":
        return {"reduceOptions": reduce, "showThresholdLabels": False}
    text = "name" if panel.kind == "state" else "auto"
    return {"reduceOptions": reduce, "textMode": text, "colorMode": "none", "graphMode": "none"}


def _data_source() -> dict[str, Any]:
    return {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
        "hide": 0,
    }


def variable(name: str, query: str, **more: Any) -> dict[str, Any]:
    """Return a variable whose values Prometheus knows."""
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": False,
        "includeAll": False,
        "current": {},
        "hide": 0,
        **more,
    }
