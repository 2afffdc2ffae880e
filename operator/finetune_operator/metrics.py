"""Every metric of the operator, declared once. Names are part of the interface: dashboards and
alerts are generated from them.
"""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest

disable_created_metrics()  # type: ignore[no-untyped-call] # one more series per counter for nobody
REGISTRY = CollectorRegistry()
_OBJECT = ("namespace", "experiment")

INFO = Gauge(
    "finetune_operator_info", "1, labelled with the release that runs.", ["version"],
    registry=REGISTRY,
)  # fmt: skip
LEADER = Gauge(
    "finetune_operator_leader", "1 while this process holds the Lease.", registry=REGISTRY
)
FENCING_NUMBER = Gauge(
    "finetune_operator_fencing_number", "Number of this leadership; it only rises.",
    registry=REGISTRY,
)  # fmt: skip
RECONCILE_SECONDS = Histogram(
    "finetune_operator_reconcile_seconds", "Duration of one step.", ["kind"], registry=REGISTRY,
    buckets=(0.005, 0.02, 0.1, 0.5, 2, 10, 30),
)  # fmt: skip
RECONCILE_ERRORS = Counter(
    "finetune_operator_reconcile_errors", "Steps that ended with an error; class user: caused by "
    "what a user or administrator set up.", ["kind", "class"], registry=REGISTRY,
)  # fmt: skip
QUEUE_DEPTH = Gauge("finetune_operator_queue_depth", "Keys ready for a worker.", registry=REGISTRY)
QUEUE_OLDEST_SECONDS = Gauge(
    "finetune_operator_queue_oldest_seconds", "Wait of the oldest ready key.", registry=REGISTRY
)
WATCH_AGE_SECONDS = Gauge(
    "finetune_operator_watch_age_seconds", "Silence of a child watch.", ["resource"],
    registry=REGISTRY,
)  # fmt: skip
WATCH_RESTARTS = Counter(
    "finetune_operator_watch_restarts", "Child watches begun again.", ["resource", "class"],
    registry=REGISTRY,
)  # fmt: skip
AUDIT_MISSES = Counter(
    "finetune_operator_audit_misses", "Changes the audit found and no watch had told of.",
    ["kind"], registry=REGISTRY,
)  # fmt: skip
API_REQUESTS = Counter(
    "finetune_operator_api_requests", "Calls of the API server; code none: no answer.",
    ["verb", "resource", "code"], registry=REGISTRY,
)  # fmt: skip
API_REQUEST_SECONDS = Histogram(
    "finetune_operator_api_request_seconds", "Duration of a call, watches left out.",
    ["verb", "resource"], registry=REGISTRY, buckets=(0.005, 0.02, 0.1, 0.5, 2, 10, 30),
)  # fmt: skip
LOOP_LAG_SECONDS = Histogram(
    "finetune_operator_loop_lag_seconds", "How late the event loop was.", registry=REGISTRY,
    buckets=(0.001, 0.01, 0.1, 0.5, 1, 5),
)  # fmt: skip
STATUS_WRITES = Counter(
    "finetune_operator_status_writes", "Status writes.", ["kind"], registry=REGISTRY
)
PROGRESS_PULLS = Counter(
    "finetune_operator_progress_pulls", "Progress questions to job pods.", ["outcome"],
    registry=REGISTRY,
)  # fmt: skip
OBJECTS = Gauge(
    "finetune_objects", "Objects by the reason of Ready.", ["kind", "namespace", "status"],
    registry=REGISTRY,
)  # fmt: skip
EXPERIMENT_STATUS = Gauge(
    "finetune_experiment_status", "1 for the present reason of Ready.", [*_OBJECT, "status"],
    registry=REGISTRY,
)  # fmt: skip
EXPERIMENT_ATTEMPT = Gauge(
    "finetune_experiment_attempt", "Number of the attempt.", _OBJECT, registry=REGISTRY
)
EXPERIMENT_RESTARTS = Counter(
    "finetune_experiment_restarts", "Attempts that ended and were repeated.", [*_OBJECT, "class"],
    registry=REGISTRY,
)  # fmt: skip
EXPERIMENT_PROGRESS_RATIO = Gauge(
    "finetune_experiment_progress_ratio", "Share of all steps that is done.", _OBJECT,
    registry=REGISTRY,
)  # fmt: skip
EXPERIMENT_STEP = Gauge(
    "finetune_experiment_step", "Optimizer steps done.", _OBJECT, registry=REGISTRY
)
EXPERIMENT_ETA_SECONDS = Gauge(
    "finetune_experiment_eta_seconds", "Expected rest of the run.", _OBJECT, registry=REGISTRY
)
EXPERIMENT_LOSS = Gauge(
    "finetune_experiment_loss", "Training loss, nats per supervised token.", _OBJECT,
    registry=REGISTRY,
)  # fmt: skip
EXPERIMENT_EVALUATION = Gauge(
    "finetune_experiment_evaluation", "Last evaluation.", [*_OBJECT, "metric"], registry=REGISTRY
)
EXPERIMENT_CHECKPOINT_STEP = Gauge(
    "finetune_experiment_checkpoint_step", "Step of the newest verified checkpoint.", _OBJECT,
    registry=REGISTRY,
)  # fmt: skip
EXPERIMENT_CHECKPOINT_TIMESTAMP = Gauge(
    "finetune_experiment_checkpoint_timestamp_seconds",
    "When the newest verified checkpoint became known.", _OBJECT, registry=REGISTRY,
)  # fmt: skip
EXPERIMENT_CHECKPOINT_INTERVAL = Gauge(
    "finetune_experiment_checkpoint_interval_seconds",
    "Longest time between two checkpoints of one attempt.", _OBJECT, registry=REGISTRY,
)  # fmt: skip
EXPERIMENT_LAST_PROGRESS = Gauge(
    "finetune_experiment_last_progress_timestamp_seconds", "When rank 0 last told something new.",
    _OBJECT, registry=REGISTRY,
)  # fmt: skip
EXPERIMENT_QUEUED = Gauge(
    "finetune_experiment_queued_timestamp_seconds", "Since when it waits for a node; absent "
    "otherwise.", _OBJECT, registry=REGISTRY,
)  # fmt: skip
EXPERIMENT_EFFECTIVE_TIME = Gauge(
    "finetune_experiment_effective_time_ratio", "Seconds in steps that count / seconds on nodes.",
    _OBJECT, registry=REGISTRY,
)  # fmt: skip
EXPERIMENT_GPU_SECONDS = Gauge(
    "finetune_experiment_gpu_seconds", "GPU time of the run by use; steps that are lost take "
    "theirs from useful to lost.", [*_OBJECT, "use"], registry=REGISTRY,
)  # fmt: skip
EXPERIMENT_FORECAST = Gauge(
    "finetune_experiment_forecast_gpu_seconds", "GPU time of the whole run, at its present speed.",
    _OBJECT, registry=REGISTRY,
)  # fmt: skip
EXPERIMENT_RECOVERY_SECONDS = Gauge(
    "finetune_experiment_recovery_seconds", "Typical time from a fault to the first step beyond "
    "it.", _OBJECT, registry=REGISTRY,
)  # fmt: skip
EXPERIMENT_LOST_STEPS = Counter(
    "finetune_experiment_lost_steps", "Steps that had to be taken again.", _OBJECT,
    registry=REGISTRY,
)  # fmt: skip
EXPERIMENT_GPUS = Gauge("finetune_experiment_gpus", "GPUs held now.", _OBJECT, registry=REGISTRY)
VOLUME_IN_USE = Gauge(
    "finetune_volume_in_use", "1 for a claim that an active run writes to.",
    [*_OBJECT, "persistentvolumeclaim"], registry=REGISTRY,
)  # fmt: skip
FINISHED = Counter(
    "finetune_experiments_finished", "Experiments that ended, by the class of the last attempt.",
    ["namespace", "outcome", "class"], registry=REGISTRY,
)  # fmt: skip
EXPERIMENT_FAMILIES = (
    EXPERIMENT_STATUS,
    EXPERIMENT_ATTEMPT,
    EXPERIMENT_RESTARTS,
    EXPERIMENT_PROGRESS_RATIO,
    EXPERIMENT_STEP,
    EXPERIMENT_ETA_SECONDS,
    EXPERIMENT_LOSS,
    EXPERIMENT_EVALUATION,
    EXPERIMENT_CHECKPOINT_STEP,
    EXPERIMENT_CHECKPOINT_TIMESTAMP,
    EXPERIMENT_CHECKPOINT_INTERVAL,
    EXPERIMENT_LAST_PROGRESS,
    EXPERIMENT_QUEUED,
    EXPERIMENT_EFFECTIVE_TIME,
    EXPERIMENT_GPU_SECONDS,
    EXPERIMENT_FORECAST,
    EXPERIMENT_RECOVERY_SECONDS,
    EXPERIMENT_LOST_STEPS,
    EXPERIMENT_GPUS,
    VOLUME_IN_USE,
)
"""All families with series per experiment."""


def exposition() -> tuple[bytes, str]:
    """Return all metrics in OpenMetrics text, and its content type."""
    text: bytes = generate_latest(REGISTRY)  # type: ignore[no-untyped-call]
    return text, CONTENT_TYPE_LATEST
