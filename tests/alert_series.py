"""Series that fire each alert, and others that come close and do not."""

from __future__ import annotations

import json
from typing import Any

from repository.tree import ROOT

Story = tuple[str, dict[str, str], list[dict[str, Any]]]
RUN = 'namespace="ml",experiment="chat"'
LABELS = {"namespace": "ml", "experiment": "chat"}
_GROUPS = json.loads((ROOT / "dashboards" / "alerts.yaml").read_text())["groups"]
_RULES = {rule["alert"]: rule for group in _GROUPS for rule in group["rules"]}
TRAINS = {f'finetune_experiment_status{{{RUN},status="Training"}}': "1x600"}
EVALUATES = {f'finetune_experiment_status{{{RUN},status="Evaluating"}}': "1x600"}
MOVED = f"finetune_experiment_last_progress_timestamp_seconds{{{RUN}}}"
SAVED = f"finetune_experiment_checkpoint_timestamp_seconds{{{RUN}}}"
APART = {f"finetune_experiment_checkpoint_interval_seconds{{{RUN}}}": "300x600"}
RESTARTS = f'finetune_experiment_restarts_total{{{RUN},class="unknown"}}'
FAILED = 'finetune_experiments_finished_total{namespace="ml",outcome="Failed",class="Data"}'
QUEUED = f"finetune_experiment_queued_timestamp_seconds{{{RUN}}}"
LAG = f"finetune_train_upload_lag_seconds{{{RUN}}}"
USEFUL = f"finetune_experiment_effective_time_ratio{{{RUN}}}"
WAITED, STEPS = (f"finetune_train_{n}_seconds_sum{{{RUN}}}" for n in ("data_wait", "step"))
SKIPPED = f"finetune_train_skipped_updates_total{{{RUN}}}"
GPUS = {f"finetune_experiment_gpus{{{RUN}}}": "8x600"}
SPENT = {
    use: f'finetune_experiment_gpu_seconds{{{RUN},use="{use}"}}'
    for use in ("useful", "lost", "startup", "evaluation")
}
HELD = {SPENT["startup"]: "0+480x600", SPENT["useful"]: "0x600"}
LOSES = {SPENT["useful"]: "1000x30 0+460x300", SPENT["lost"]: "0x30 1000x300"}
"""A restart takes steps back, and the run goes on at once."""
CLAIM = 'namespace="ml",persistentvolumeclaim="artifacts"'
USED = {f'finetune_volume_in_use{{{CLAIM},experiment="chat"}}': "1x600"}
FREE = f"kubelet_volume_stats_available_bytes{{{CLAIM}}}"
SIZE = {f"kubelet_volume_stats_capacity_bytes{{{CLAIM}}}": "100x600"}
WATCH = 'finetune_operator_watch_age_seconds{resource="pods"}'
OLDEST = "finetune_operator_queue_oldest_seconds"
ERRORS = 'finetune_operator_reconcile_errors_total{kind="Dataset",class="%s"}'
WRITES = 'finetune_operator_api_requests_total{verb="%s",resource="jobs",code="200"}'


def fires(name: str, when: str, series: dict[str, str], **labels: str) -> Story:
    """Return a story at whose end the alert fires."""
    rule = _RULES[name]
    summary = rule["annotations"]["summary"]
    for label, value in labels.items():
        summary = summary.replace(f"{{{{ $labels.{label} }}}}", value)
    annotations = rule["annotations"] | {"summary": summary}
    return when, series, [{"exp_labels": rule["labels"] | labels, "exp_annotations": annotations}]


FIRE: dict[str, Story] = {
    name: fires(name, when, series, **labels)
    for name, when, series, labels in (
        ("FinetuneRunStalled", "25m", TRAINS | {MOVED: "0x600"}, LABELS),
        ("FinetuneRunRestartsOften", "20m", {RESTARTS: "0 0 1 2 4x30"}, LABELS),
        ("FinetuneRunFailed", "5m", {FAILED: "0 0 1x30"}, {"namespace": "ml", "class": "Data"}),
        ("FinetuneRunQueuedLong", "260m", {QUEUED: "0x600"}, LABELS),
        ("FinetuneCheckpointOld", "30m", TRAINS | APART | {SAVED: "0x600"}, LABELS),
        ("FinetuneUploadLag", "25m", {LAG: "0+60x60"}, LABELS),
        ("FinetuneEffectiveTimeLow", "70m", {USEFUL: "0.7x600"}, LABELS),
        ("FinetuneDataStarved", "40m", {WAITED: "0+20x60", STEPS: "0+60x60"}, LABELS),
        ("FinetuneNotFinite", "10m", {SKIPPED: "0 0 1x30"}, LABELS),
        ("FinetuneGpuHeldIdle", "40m", GPUS | HELD, LABELS),
        ("FinetuneVolumeFull", "10m", USED | SIZE | {FREE: "10x600"},
         {"namespace": "ml", "persistentvolumeclaim": "artifacts"}),
        ("FinetuneOperatorDown", "10m", {}, {}),
        ("FinetuneOperatorWatchStale", "5m", {WATCH: "0+60x60"}, {"resource": "pods"}),
        ("FinetuneOperatorQueueOld", "15m", {OLDEST: "0+60x60"}, {}),
        ("FinetuneOperatorErrors", "30m", {ERRORS % "Unavailable": "0+6x60"},
         {"kind": "Dataset", "class": "Unavailable"}),
        ("FinetuneOperatorWriteLoop", "70m", {WRITES % "PATCH": "0+120x90"}, {}),
    )
}  # fmt: skip
SILENT: dict[str, Story] = {
    name: (when, series, [])
    for name, when, series in (
        ("FinetuneRunStalled", "60m", EVALUATES | {MOVED: "0x600"}),
        ("FinetuneRunRestartsOften", "200m", {RESTARTS: "0x60 1x60 2x90"}),
        ("FinetuneRunFailed", "5m", {FAILED: "3x30"}),
        ("FinetuneRunQueuedLong", "260m", {QUEUED: "0x100 _x600"}),
        ("FinetuneCheckpointOld", "30m", TRAINS | APART | {SAVED: "0+60x600"}),
        ("FinetuneUploadLag", "60m", {LAG: "800x60"}),
        ("FinetuneEffectiveTimeLow", "70m", {USEFUL: "0.7x20 0.9x600"}),
        ("FinetuneDataStarved", "40m", {WAITED: "0+2x60", STEPS: "0+60x60"}),
        ("FinetuneNotFinite", "10m", {SKIPPED: "2x30"}),
        ("FinetuneGpuHeldIdle", "47m", GPUS | LOSES),
        ("FinetuneVolumeFull", "10m", SIZE | {FREE: "10x600"}),
        ("FinetuneOperatorDown", "10m", {'finetune_operator_info{version="1"}': "1x60"}),
        ("FinetuneOperatorWatchStale", "5m", {WATCH: "100x60"}),
        ("FinetuneOperatorQueueOld", "15m", {OLDEST: "200x60"}),
        ("FinetuneOperatorErrors", "30m", {ERRORS % "user": "0+60x60"}),
        ("FinetuneOperatorWriteLoop", "70m", {WRITES % "GET": "0+600x90"}),
    )
}
