"""PromQL of the experiment board; metric names come from the operator's own declarations."""

from __future__ import annotations

from prometheus_client import Counter
from prometheus_client.metrics import MetricWrapperBase

from finetune_operator import metrics

EXPERIMENT = 'namespace="$namespace",experiment="$experiment"'
RATE = "$__rate_interval"


def series(metric: MetricWrapperBase | str, *matchers: str) -> str:
    """Return a metric of the chosen experiment: the operator's by object, the trainer's by name."""
    name = metric if isinstance(metric, str) else declared_name(metric)
    return f"{name}{{{','.join((EXPERIMENT, *matchers))}}}"


def declared_name(metric: MetricWrapperBase) -> str:
    """Return the name under which Prometheus stores a metric's samples."""
    name: str = next(iter(metric.describe())).name
    return f"{name}_total" if isinstance(metric, Counter) else name


def rate(metric: str) -> str:
    """Return the growth per second of a counter, over all pods."""
    return f"sum(rate({series(metric)}[{RATE}]))"


def quantile(share: float, histogram: str) -> str:
    """Return a quantile of a histogram's recent observations."""
    buckets = series(f"{histogram}_bucket")
    return f"histogram_quantile({share}, sum by (le) (rate({buckets}[{RATE}])))"


def evaluation(metric: str) -> str:
    """Return the last value of a validation metric."""
    matcher = f'metric="{metric}"'
    return f"max({series('finetune_train_evaluation', matcher)})"


STATUS = f"max by (status) ({series(metrics.EXPERIMENT_STATUS)})"
PROGRESS = f"max({series(metrics.EXPERIMENT_PROGRESS_RATIO)})"
REMAINING = f"max({series(metrics.EXPERIMENT_ETA_SECONDS)})"
ATTEMPT = f"max({series(metrics.EXPERIMENT_ATTEMPT)})"
RESTARTS = f"sum({series(metrics.EXPERIMENT_RESTARTS)})"
RESTARTS_BY_CLASS = f"sum by (class) ({series(metrics.EXPERIMENT_RESTARTS)})"
KNOWN_CHECKPOINT = f"max({series(metrics.EXPERIMENT_CHECKPOINT_STEP)})"
EFFECTIVE_TIME = f"max({series(metrics.EXPERIMENT_EFFECTIVE_TIME)})"
LOST_STEPS = f"sum({series(metrics.EXPERIMENT_LOST_STEPS)})"
RECOVERY = f"max({series(metrics.EXPERIMENT_RECOVERY_SECONDS)})"
GPU_TIME = f"max by (use) ({series(metrics.EXPERIMENT_GPU_SECONDS)})"
FORECAST = f"max({series(metrics.EXPERIMENT_FORECAST)})"
LAST_EVALUATION = f"max by (metric) ({series(metrics.EXPERIMENT_EVALUATION)})"

LOSS = f"max by (attempt) ({series('finetune_train_loss')})"
VALIDATION_LOSS = evaluation("loss")
PERPLEXITY = evaluation("perplexity_corpus")
LEARNING_RATE = f"max({series('finetune_train_learning_rate')})"
GRADIENT_NORM = f"max({series('finetune_train_gradient_norm')})"
TOKENS = rate("finetune_train_tokens_total")
SUPERVISED_TOKENS = rate("finetune_train_supervised_tokens_total")
STEP = f"max({series('finetune_train_step')})"
STEPS = f"max({series('finetune_train_steps')})"
MEDIAN_STEP = quantile(0.5, "finetune_train_step_seconds")
SLOW_STEP = quantile(0.95, "finetune_train_step_seconds")
CHECKPOINT_STEP = f"max({series('finetune_train_checkpoint_step')})"
STEPS_AT_RISK = f"{STEP} - {CHECKPOINT_STEP}"
UPLOAD_RETRIES = f"max({series('finetune_train_upload_retries_total')})"
POSTPONED = f"max({series('finetune_train_checkpoints_postponed_total')})"
STALL = quantile(0.95, "finetune_train_checkpoint_stall_seconds")
CHECKPOINT_AGE = f"time() - max({series('finetune_train_checkpoint_timestamp_seconds')})"
SKIPPED_UPDATES = f"max({series('finetune_train_skipped_updates_total')})"
ROLLBACKS = f"max({series('finetune_train_rollbacks_total')})"
PHASES = (
    f"sum by (phase) (rate({series('finetune_train_phase_seconds_sum')}[{RATE}])) / "
    f"sum by (phase) (rate({series('finetune_train_phase_seconds_count')}[{RATE}]))"
)
MFU = f"max({series('finetune_train_mfu_ratio')})"
FILL = f"max({series('finetune_train_fill_ratio')})"
PADDING = f"max({series('finetune_train_padding_ratio')})"
IMBALANCE = f"max({series('finetune_train_imbalance_ratio')})"
MEMORY = f"max by (kind, pod) ({series('finetune_train_memory_bytes')})"
HEARTBEAT_AGE = f"time() - max({series('finetune_train_last_progress_timestamp_seconds')})"
