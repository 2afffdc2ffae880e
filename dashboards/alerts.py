"""Alerts as data; `make generate` writes them as Prometheus rules. Each has a runbook section."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from dashboards.queries import declared_name as name

from finetune_operator import metrics

RUNBOOK = "docs/runbook.md"
RUN = "(namespace, experiment)"
USED = '{use=~"useful|evaluation"}'
TRAINS = f'{name(metrics.EXPERIMENT_STATUS)}{{status=~"Training|Evaluating"}} == 1'


@dataclass(frozen=True)
class Alert:
    """One alert: when it fires, how long that must last, and what it says."""

    name: str
    expression: str
    lasting: str
    severity: str
    summary: str

    def rule(self) -> dict[str, Any]:
        """Return the alert as Prometheus reads it."""
        return {
            "alert": self.name,
            "expr": self.expression,
            "for": self.lasting,
            "labels": {"severity": self.severity},
            "annotations": {
                "summary": self.summary,
                "runbook_url": f"{RUNBOOK}#{self.name.lower()}",
            },
        }


def _of_run(metric: Any, how: str = "max") -> str:
    return f"{how} by {RUN} ({name(metric)})"


def _grown(metric: str, window: str) -> str:
    return f"sum by {RUN} (increase({metric}[{window}]))"


def _spent(matchers: str) -> str:
    """Return how much the GPU time of the chosen uses has changed: it also becomes less."""
    return f"sum by {RUN} (delta({name(metrics.EXPERIMENT_GPU_SECONDS)}{matchers}[15m]))"


WHO = "{{ $labels.namespace }}/{{ $labels.experiment }}"
OF_RUNS = (
    Alert(
        "FinetuneRunStalled",
        f"time() - {_of_run(metrics.EXPERIMENT_LAST_PROGRESS)} > 900 and on {RUN} "
        f'{name(metrics.EXPERIMENT_STATUS)}{{status="Training"}} == 1',
        "5m", "critical", f"{WHO} trains and has told of no step for 15 minutes.",
    ),
    Alert(
        "FinetuneRunRestartsOften",
        f"{_grown(name(metrics.EXPERIMENT_RESTARTS), '1h')} >= 3",
        "0m", "warning", f"{WHO} was restarted three times within an hour.",
    ),
    Alert(
        "FinetuneRunFailed",
        f'sum by (namespace, class) (increase({name(metrics.FINISHED)}{{outcome="Failed"}}[10m]))'
        " > 0",
        "0m", "warning", "Runs in {{ $labels.namespace }} failed: {{ $labels.class }}.",
    ),
    Alert(
        "FinetuneRunQueuedLong",
        f"time() - {_of_run(metrics.EXPERIMENT_QUEUED)} > 14400",
        "10m", "info", f"{WHO} waits for nodes for four hours.",
    ),
    Alert(
        "FinetuneCheckpointOld",
        f"time() - {_of_run(metrics.EXPERIMENT_CHECKPOINT_TIMESTAMP)} > 3 * "
        f"{_of_run(metrics.EXPERIMENT_CHECKPOINT_INTERVAL)} and on {RUN} {TRAINS}",
        "10m", "warning", f"The newest checkpoint of {WHO} is three intervals old.",
    ),
    Alert(
        "FinetuneUploadLag", f"max by {RUN} (finetune_train_upload_lag_seconds) > 900",
        "5m", "warning", f"A checkpoint of {WHO} is not in storage for 15 minutes.",
    ),
    Alert(
        "FinetuneEffectiveTimeLow", f"{_of_run(metrics.EXPERIMENT_EFFECTIVE_TIME, 'min')} < 0.8",
        "1h", "info", f"Less than 80 % of the time of {WHO} on nodes became part of its result.",
    ),
    Alert(
        "FinetuneDataStarved",
        f"sum by {RUN} (rate(finetune_train_data_wait_seconds_sum[10m])) / sum by {RUN} "
        "(rate(finetune_train_step_seconds_sum[10m])) > 0.1",
        "15m", "info", f"Steps of {WHO} wait for data more than a tenth of their time.",
    ),
    Alert(
        "FinetuneNotFinite", f"{_grown('finetune_train_skipped_updates_total', '10m')} > 0",
        "0m", "warning", f"Updates of {WHO} were not finite and left out.",
    ),
    Alert(
        "FinetuneGpuHeldIdle",
        f"{_spent(USED)} < 0.1 * {_spent('')} and on {RUN} "
        f"{name(metrics.EXPERIMENT_GPUS)} > 0",
        "15m", "warning", f"{WHO} holds GPUs and hardly uses them.",
    ),
    Alert(
        "FinetuneVolumeFull",
        "min by (namespace, persistentvolumeclaim) (kubelet_volume_stats_available_bytes / "
        "kubelet_volume_stats_capacity_bytes) < 0.15 and on (namespace, persistentvolumeclaim) "
        f"max by (namespace, persistentvolumeclaim) ({name(metrics.VOLUME_IN_USE)}) == 1",
        "5m", "warning",
        "{{ $labels.namespace }}/{{ $labels.persistentvolumeclaim }} has less than 15 % left.",
    ),
)  # fmt: skip
OF_THE_OPERATOR = (
    Alert(
        "FinetuneOperatorDown", f"absent({name(metrics.INFO)})",
        "5m", "critical", "No operator is scraped.",
    ),
    Alert(
        "FinetuneOperatorWatchStale",
        f"max by (resource) ({name(metrics.WATCH_AGE_SECONDS)}) > 180",
        "1m", "critical", "The watch of {{ $labels.resource }} is silent for three minutes.",
    ),
    Alert(
        "FinetuneOperatorQueueOld", f"max({name(metrics.QUEUE_OLDEST_SECONDS)}) > 300",
        "5m", "warning", "Objects wait five minutes for a worker.",
    ),
    Alert(
        "FinetuneOperatorErrors",
        f'sum by (kind, class) (rate({name(metrics.RECONCILE_ERRORS)}{{class!="user"}}[10m]))'
        " > 0.05",
        "10m", "warning", "Steps for {{ $labels.kind }} fail: {{ $labels.class }}.",
    ),
    Alert(
        "FinetuneOperatorWriteLoop",
        f'sum(rate({name(metrics.API_REQUESTS)}{{verb=~"POST|PUT|PATCH|DELETE"}}[30m])) > '
        f'1 + 0.2 * (sum({name(metrics.OBJECTS)}{{kind="FineTuneExperiment",'
        'status=~"Starting|Training|Evaluating|Restarting"}) or vector(0))',
        "30m", "warning", "The operator writes more than its active runs explain.",
    ),
)  # fmt: skip
ALERTS = (*OF_RUNS, *OF_THE_OPERATOR)


def rules() -> str:
    """Return all alerts as a file of Prometheus rules; JSON is YAML."""
    groups = [
        {"name": "finetune-runs", "rules": [one.rule() for one in OF_RUNS]},
        {"name": "finetune-operator", "rules": [one.rule() for one in OF_THE_OPERATOR]},
    ]
    return json.dumps({"groups": groups}, indent=2) + "\n"
