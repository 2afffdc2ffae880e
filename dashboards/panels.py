"""The Grafana dashboard of one experiment as data; `make generate` writes it as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from dashboards import queries as q

from finetune_operator import metrics

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


STATE = (
    Panel(
        "State", "Reason of the Ready condition: what the experiment does now.", "string",
        (("{{status}}", q.STATUS),), kind="state", width=6, height=4,
    ),
    Panel(
        "Progress", "Share of all optimizer steps that is done.", "percentunit",
        (("progress", q.PROGRESS),), kind="gauge", width=4, height=4,
    ),
    Panel(
        "Remaining", "Expected rest of the run at the present speed.", "s",
        (("remaining", q.REMAINING),), kind="stat", width=4, height=4,
    ),
    Panel(
        "Attempt", "Number of the present attempt; every restart of all ranks is a new one.",
        "none", (("attempt", q.ATTEMPT),), kind="stat", width=3, height=4,
    ),
    Panel(
        "Restarts", "Restarts of all ranks since the operator started.", "none",
        (("restarts", q.RESTARTS),), kind="stat", width=3, height=4,
    ),
    Panel(
        "Last evaluation", "Newest value of every validation metric the operator recorded.",
        "none", (("{{metric}}", q.LAST_EVALUATION),), kind="stat", width=4, height=4,
    ),
)  # fmt: skip
LEARNING = (
    Panel(
        "Loss", "Training loss per step over all ranks, and loss on the validation split, in nats "
        "per supervised token. Validation rising while training falls means overfitting.",
        "none", (("training, attempt {{attempt}}", q.LOSS), ("validation", q.VALIDATION_LOSS)),
        width=12,
    ),
    Panel(
        "Validation perplexity", "Exponential of the validation loss over the whole split; lower "
        "is better.", "none", (("perplexity", q.PERPLEXITY),), width=12, logarithmic=True,
    ),
    Panel(
        "Learning rate", "Rate of the last step: warm-up, then the schedule.", "sci",
        (("rate", q.LEARNING_RATE),),
    ),
    Panel(
        "Gradient norm", "L2 norm over all trainable gradients before clipping. Spikes come before "
        "divergence: lower the rate or clip.", "none", (("norm", q.GRADIENT_NORM),),
        logarithmic=True,
    ),
    Panel(
        "Steps", "Optimizer steps done, and planned in all.", "none",
        (("done", q.STEP), ("planned", q.STEPS)),
    ),
)  # fmt: skip
SPEED = (
    Panel(
        "Tokens per second", "Throughput over all ranks: every token, and the supervised ones "
        "that count in the loss.", "cps",
        (("tokens", q.TOKENS), ("supervised", q.SUPERVISED_TOKENS)),
    ),
    Panel(
        "Step duration", "Median and 95th percentile of recent steps.", "s",
        (("median", q.MEDIAN_STEP), ("95 %", q.SLOW_STEP)),
    ),
    Panel(
        "Phases of a step", "Mean seconds of a step by phase, on the device. Data beyond a few "
        "percent means that the GPU waits for the host.", "s", (("{{phase}}", q.PHASES),),
    ),
    Panel(
        "Use of the hardware", "Model FLOPs against the datasheet's peak (GPUs only), tokens "
        "against the room in micro-batches, padding, and how much heavier the heaviest rank is.",
        "percentunit",
        (
            ("MFU", q.MFU), ("fill", q.FILL), ("padding", q.PADDING), ("imbalance", q.IMBALANCE),
        ),
        width=12,
    ),
    Panel(
        "Memory", "Memory of rank 0 by kind; the limit of the pod ends the run when it is "
        "reached.", "bytes", (("{{pod}} {{kind}}", q.MEMORY),), width=12,
    ),
)  # fmt: skip
SAFETY = (
    Panel(
        "Checkpoints", "Step of the newest verified checkpoint, as the trainer and as the operator "
        "know it. A restart goes on from there.", "none",
        (("trainer", q.CHECKPOINT_STEP), ("operator", q.KNOWN_CHECKPOINT)),
    ),
    Panel(
        "Steps since the last checkpoint", "Work that a kill would lose now. If it only grows, "
        "checkpoints do not reach the storage.", "none", (("steps", q.STEPS_AT_RISK),),
    ),
    Panel(
        "Uploads", "Repeated uploads and postponed checkpoints: the storage is slow or away.",
        "none", (("repeated uploads", q.UPLOAD_RETRIES), ("postponed checkpoints", q.POSTPONED)),
    ),
    Panel(
        "Age and stall of checkpoints", "Seconds since the newest checkpoint was complete, and how "
        "long training stood still for one.", "s",
        (("age", q.CHECKPOINT_AGE), ("stall, 95 %", q.STALL)), width=12,
    ),
    Panel(
        "Updates that were not finite", "Updates left out, and returns to the checkpoint before "
        "one. Lower the rate, clip, or look at the data.", "none",
        (("skipped", q.SKIPPED_UPDATES), ("rollbacks", q.ROLLBACKS)), width=12,
    ),
    Panel(
        "Restarts by class", "Restarts since the operator started, by what ended the attempt.",
        "none", (("{{class}}", q.RESTARTS_BY_CLASS),), width=12,
    ),
    Panel(
        "Age of the last sign of life", "Seconds since rank 0 last moved, in any phase. Growth "
        "means a hang.", "s", (("age", q.HEARTBEAT_AGE),), width=12,
    ),
)  # fmt: skip
ROWS = (
    ("State", STATE),
    ("Learning", LEARNING),
    ("Speed and memory", SPEED),
    ("Checkpoints and restarts", SAFETY),
)


def boards() -> dict[str, str]:
    """Return every dashboard as JSON text by its file name."""
    return {"experiment.json": json.dumps(experiment_board(), indent=2) + "\n"}


def experiment_board() -> dict[str, Any]:
    """Return the dashboard of one experiment."""
    status = q.declared_name(metrics.EXPERIMENT_STATUS)
    return {
        "uid": "finetune-experiment",
        "title": "Fine-tuning: experiment",
        "description": "One experiment: what it learns, how fast, and how safe its work is.",
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
        "templating": {
            "list": [
                _data_source(),
                _variable("namespace", f"label_values({status}, namespace)"),
                _variable(
                    "experiment",
                    f'label_values({status}{{namespace="$namespace"}}, experiment)',
                ),
            ]
        },
        "panels": _laid_out(),
    }


def _laid_out() -> list[dict[str, Any]]:
    """Return rows and panels with places and numbers, filled from the left."""
    found: list[dict[str, Any]] = []
    top = 0
    for title, panels in ROWS:
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


def _variable(name: str, query: str) -> dict[str, Any]:
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
    }
