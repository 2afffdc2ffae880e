"""What the GPU time of a run was for, and how much of it the whole run will take.

Between two looks GPUs were held for a time. What of it was spent in steps is told by rank 0; the
rest belongs to what the run did meanwhile, as far as it has a name.
"""

from __future__ import annotations

from finetune_api.experiment_status import CostStatus, ExperimentProgress, ExperimentStatus
from finetune_operator.planners.run_efficiency import step_seconds

_RUNS = frozenset({"Training", "Saving", "Evaluating", "Completed"})
"""Stages in which rank 0 has its model and its data; before them is the start."""


def with_uses(cost: CostStatus, before: ExperimentStatus, after: ExperimentStatus) -> CostStatus:
    """Return a cost with its uses; `before` is the stored status, `after` the one with news."""
    known, gpus = before.cost or CostStatus(), before.attempt.gpus or 0
    (useful, lost), spent = step_seconds(after), sum(step_seconds(before))
    stepped = max(0.0, useful + lost - spent) * gpus
    between = max(0, round(cost.gpu_seconds - known.gpu_seconds - stepped))
    stage = _stage(before.progress)
    return cost.model_copy(
        update={
            "useful_gpu_seconds": round(useful * gpus),
            "lost_gpu_seconds": round(lost * gpus),
            "startup_gpu_seconds": known.startup_gpu_seconds + (0 if stage else between),
            "evaluation_gpu_seconds": known.evaluation_gpu_seconds
            + (between if stage == "Evaluating" else 0),
        }
    )


def remaining_gpu_seconds(status: ExperimentStatus) -> int | None:
    """Return the GPU time that the rest of the run takes at its present speed, once known."""
    left = status.progress.estimated_remaining_seconds if status.progress else None
    return None if left is None else left * (status.attempt.gpus or 0)


def _stage(progress: ExperimentProgress | None) -> str:
    """Return what an attempt does that has started, or an empty text while it starts."""
    started = progress is not None and progress.first_step is not None
    return progress.stage if progress and started and progress.stage in _RUNS else ""
