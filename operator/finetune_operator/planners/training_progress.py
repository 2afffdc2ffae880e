"""What a run's progress and last words add to the status of its experiment."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from finetune_api.experiment_status import (
    BestStatus,
    Checkpoints,
    CheckpointStatus,
    ExperimentProgress,
    ExperimentStatus,
    MetricStatus,
)
from finetune_api.run_outcome import Best, CheckpointRef, Outcome
from finetune_api.run_progress import Progress
from finetune_operator.planners.run_efficiency import efficiency

_WRITTEN_BY = re.compile(r"/attempt-(\d+)\.")
_MOST_METRICS = 32
NOTABLE_DEVIATION = 0.15
"""Share by which an observed peak of GPU memory may differ from the plan unmentioned."""


def reported(status: ExperimentStatus, told: Progress, now: datetime) -> dict[str, Any]:
    """Return the updates that an answer of rank 0 brings."""
    checkpoints = _checkpoints(
        status, told.checkpoint, told.best_checkpoint, quarantined=told.quarantined
    )
    slowest = max(
        (s for s in (told.save_seconds, checkpoints.save_seconds) if s is not None), default=None
    )
    progress = _progress(status.model_copy(update={"checkpoints": checkpoints}), told, now)
    moved = progress is not status.progress
    return (efficiency(status, progress, now) if moved else {}) | {
        "progress": progress,
        "metrics": merged(status.metrics, _evaluated(told)),
        "best": _best(told.best) or status.best,
        "checkpoints": checkpoints.model_copy(update={"save_seconds": slowest}),
    }


def memory_off_plan(status: ExperimentStatus, progress: ExperimentProgress | None) -> str:
    """Return what to say when a GPU's first observed peak is far from the plan's, else nothing."""
    plan, known = status.plan, status.progress
    peak = progress.peak_memory_bytes if progress else None
    planned = progress.planned_memory_bytes if progress else None
    if not peak or not planned or not plan or not plan.gpus:
        return ""
    if known and known.peak_memory_bytes:
        return ""
    if abs(peak / planned - 1) <= NOTABLE_DEVIATION:
        return ""
    return f"the longest samples take {peak / 1e9:.1f} GB per GPU, {planned / 1e9:.1f} GB planned"


def last_words(status: ExperimentStatus, outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Return the updates that the outcomes of an ended attempt bring."""
    said = list(outcomes)
    steps = [max(one.step, one.checkpoint.step if one.checkpoint else 0) for one in said]
    updates: dict[str, Any] = {"progress": _reached(status, max(steps, default=0))}
    for outcome in said:
        if outcome.checkpoint or outcome.quarantined or outcome.best:
            checkpoints = _checkpoints(
                status, outcome.checkpoint, outcome.best_checkpoint, quarantined=outcome.quarantined
            )
            updates |= {"checkpoints": checkpoints, "best": _best(outcome.best) or status.best}
            break
    return updates


def merged(known: list[MetricStatus], latest: list[MetricStatus]) -> list[MetricStatus]:
    """Return the baseline and the latest evaluation: numbers of step 0 stay, others give way."""
    if not latest:
        return known
    newest = {(metric.name, metric.split, metric.step): metric for metric in latest}
    baseline = [m for m in known if m.step == 0 and (m.name, m.split, 0) not in newest]
    return [*baseline, *newest.values()][:_MOST_METRICS]


def _checkpoints(
    status: ExperimentStatus,
    latest: CheckpointRef | None,
    best: CheckpointRef | None,
    *,
    quarantined: int,
) -> Checkpoints:
    """Return the known checkpoints with newer ones; counts of one pod never lower the total."""
    known = status.checkpoints
    return known.model_copy(
        update={
            "latest": _checkpoint(status, latest) or known.latest,
            "best": _checkpoint(status, best) or known.best,
            "quarantined": max(known.quarantined, quarantined),
        }
    )


def _checkpoint(status: ExperimentStatus, found: CheckpointRef | None) -> CheckpointStatus | None:
    if found is None:
        return None
    writer = _WRITTEN_BY.search(found.uri)
    return CheckpointStatus(
        step=found.step,
        uri=found.uri,
        digest=found.digest,
        attempt=int(writer[1]) if writer else status.attempt.number,
    )


def _best(best: Best | None) -> BestStatus | None:
    return BestStatus(metric=best.metric[:63], value=best.value, step=best.step) if best else None


def _evaluated(told: Progress) -> list[MetricStatus]:
    return [
        MetricStatus(
            name=name[:63],
            split="validation",
            value=value,
            step=told.metrics_step,
            rows=told.metrics_rows,
        )
        for name, value in told.metrics.items()
    ]


def _reached(status: ExperimentStatus, step: int) -> ExperimentProgress | None:
    """Return the progress with a step that only last words or a checkpoint tell of."""
    known, plan = status.progress or ExperimentProgress(), status.plan
    total = plan.total_steps if plan else known.total_steps
    step = min(step, total)
    if step <= known.step:
        return status.progress
    done = {"step": step, "total_steps": total, "percentage": 100 * step // total}
    return known.model_copy(update=done)


def _progress(status: ExperimentStatus, told: Progress, now: datetime) -> ExperimentProgress:
    """Keep the time of an unchanged answer: a status that differs by a clock is never written.

    An attempt that starts again shows what was reached until it takes steps.
    """
    known, latest = status.progress, status.checkpoints.latest
    remaining = None if told.eta_seconds is None else round(told.eta_seconds)
    fresh = ExperimentProgress(
        percentage=told.percentage,
        step=told.step,
        total_steps=told.total_steps,
        first_step=told.first_step,
        step_seconds=_rounded(told.step_seconds, 1),
        estimated_remaining_seconds=remaining,
        epoch=_rounded(told.epoch, 3),
        loss=_rounded(told.loss, 4),
        learning_rate=told.learning_rate,
        grad_norm=_rounded(told.gradient_norm, 4),
        tokens_per_second=_rounded(told.tokens_per_second, 1),
        peak_memory_bytes=told.memory_peak_bytes,
        planned_memory_bytes=told.memory_planned_bytes,
        eta=None if remaining is None else duration(remaining),
        stage=told.phase,
    )
    reached = _reached(status, latest.step if latest else 0) if told.first_step is None else None
    if reached and (reached.first_step is not None or reached.step > told.step):
        fresh = reached.model_copy(update={"stage": told.phase, "update_time": None})
    if known and known.model_copy(update={"update_time": None}) == fresh:
        return known
    return fresh.model_copy(update={"update_time": now.replace(microsecond=0)})


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def duration(seconds: int) -> str:
    """Return a time as people read it, by its two largest units: `2h10m`."""
    days, rest = divmod(seconds, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    if days:
        return f"{days}d{hours}h"
    if hours:
        return f"{hours}h{minutes}m"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
