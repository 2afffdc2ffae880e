"""What became of the time a run held nodes: useful seconds, steps lost, time to recover.

An attempt tells the step it went on from; what was done beyond that step before was lost.
"""

from __future__ import annotations

from datetime import datetime
from statistics import median
from typing import Any

from finetune_api.experiment_status import Efficiency, ExperimentProgress, ExperimentStatus
from finetune_api.status_parts import AttemptRecord
from finetune_operator.planners.failure_class import End


def efficiency(status: ExperimentStatus, told: ExperimentProgress, now: datetime) -> dict[str, Any]:
    """Return the updates that a newer progress of the present attempt brings."""
    if told.first_step is None:
        return {}
    known = status.efficiency or Efficiency()
    trained, lost, wasted = known.trained_seconds, known.lost_steps, known.lost_seconds
    if (before := _before(status, told)) is not None:
        lost += max(0, (before.last_step or 0) - told.first_step)
        kept = _kept_seconds(before, told.first_step)
        trained, wasted = trained + kept, wasted + (before.step_seconds or 0.0) - kept
    elif status.progress is not None and status.progress.first_step is not None:
        back = max(0, status.progress.step - told.step)  # taken back by a rollback
        lost, wasted = lost + back, wasted + back * _seconds_per_step(status.progress)
    history = [_recovered(record, status, told.step, now) for record in status.history]
    found = Efficiency(
        training_ratio=_ratio(status, trained + (told.step_seconds or 0.0), now),
        trained_seconds=round(trained, 1),
        lost_steps=lost,
        lost_seconds=round(wasted, 1),
        recovery_seconds=_typical(history, status),
    )
    return {"efficiency": found, "history": history}


def step_seconds(status: ExperimentStatus) -> tuple[float, float]:
    """Return the seconds in steps that count, as far as is known, and in steps that were lost.

    Which steps of an ended attempt are lost is known once the next one takes steps.
    """
    known, progress = status.efficiency or Efficiency(), status.progress
    present = progress.step_seconds if progress else None
    if progress is None or progress.first_step is None:
        before = next((one for one in status.history if _took_steps(one, status)), None)
        present = before.step_seconds if before else None
    return known.trained_seconds + (present or 0.0), known.lost_seconds


def measured(progress: ExperimentProgress | None, end: End) -> dict[str, Any]:
    """Return what the record of an ended attempt keeps of its steps.

    Only rank 0 speaks of seconds, and a pod that was killed says nothing: then the last progress
    that was seen counts.
    """
    said = end.outcome
    if progress is None or progress.first_step is None:
        return {"first_step": said.first_step, "step_seconds": said.step_seconds} if said else {}
    own = said is not None and said.first_step is not None
    return {
        "first_step": said.first_step if said and own else progress.first_step,
        "step_seconds": said.step_seconds if said and own else progress.step_seconds,
        "last_step": max(end.step or 0, progress.step),
        "last_step_time": progress.update_time,
    }


def forgotten(progress: ExperimentProgress | None) -> ExperimentProgress | None:
    """Return a progress without what belongs to the attempt that ended."""
    left = {"first_step": None, "step_seconds": None}
    return progress.model_copy(update=left) if progress else None


def _before(status: ExperimentStatus, told: ExperimentProgress) -> AttemptRecord | None:
    """Return what was done before the present attempt went on, if that is not settled yet.

    An attempt whose queue stopped it goes on without having ended: it is its own predecessor.
    """
    known = status.progress
    if known is None or known.first_step is None:
        return next((one for one in status.history if _took_steps(one, status)), None)
    if known.first_step == told.first_step:
        return None
    return AttemptRecord(
        number=status.attempt.number,
        outcome="Preempted",
        first_step=known.first_step,
        last_step=known.step,
        step_seconds=known.step_seconds,
    )


def _took_steps(record: AttemptRecord, status: ExperimentStatus) -> bool:
    of_this = (record.revision, record.stage) == (max(1, status.revision), "attempt")
    return of_this and record.first_step is not None


def _kept_seconds(record: AttemptRecord, step: int) -> float:
    first, last = record.first_step or 0, record.last_step or 0
    share = (min(step, last) - first) / (last - first) if last > first else 0.0
    return max(0.0, share) * (record.step_seconds or 0.0)


def _seconds_per_step(progress: ExperimentProgress) -> float:
    taken = progress.step - (progress.first_step or 0)
    return (progress.step_seconds or 0.0) / taken if taken > 0 else 0.0


def _recovered(
    record: AttemptRecord, status: ExperimentStatus, step: int, now: datetime
) -> AttemptRecord:
    since, last = record.last_step_time, record.last_step
    waits = _took_steps(record, status) and record.failure_class and not record.recovery_seconds
    if not waits or since is None or last is None or step <= last:
        return record
    seconds = max(1, int((now - since).total_seconds()))
    return record.model_copy(update={"recovery_seconds": seconds})


def _typical(history: list[AttemptRecord], status: ExperimentStatus) -> float | None:
    known = [one.recovery_seconds for one in history if _took_steps(one, status)]
    times = [one for one in known if one is not None]
    return float(median(times)) if times else None


def _ratio(status: ExperimentStatus, trained: float, now: datetime) -> float | None:
    started = status.attempt.started_time
    held = status.active_seconds + ((now - started).total_seconds() if started else 0.0)
    return round(min(1.0, trained / held), 3) if held > 0 else None
