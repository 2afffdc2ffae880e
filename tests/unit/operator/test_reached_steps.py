"""The step that is shown: never behind the last words of a run or its newest checkpoint."""

from __future__ import annotations

import json

import pytest

from builders import NOW, PLAN, digest
from finetune_api.experiment_plan import PlanStatus
from finetune_api.experiment_status import ExperimentStatus
from finetune_api.run_outcome import CheckpointRef, FailureClass, Outcome
from finetune_api.run_progress import Progress
from finetune_operator.planners.training_progress import last_words, reported

PLANNED = ExperimentStatus(plan=PlanStatus.model_validate_json(json.dumps(PLAN)))
"""A run of 100 steps of which nothing was heard."""


def answer(step: int, first: int | None = 0, phase: str = "Training") -> Progress:
    steps = {"step": step, "total_steps": 100, "percentage": step}
    return Progress(run="u/1", phase=phase, first_step=first, **steps)


def asked(status: ExperimentStatus, told: Progress) -> ExperimentStatus:
    """Return the status after an answer of rank 0."""
    return status.model_copy(update=reported(status, told, NOW))


def ended(status: ExperimentStatus, *steps: int, checkpoint: int = 0) -> ExperimentStatus:
    """Return the status after the last words of ranks at `steps`."""
    kept = CheckpointRef(step=checkpoint, uri="pvc://c/attempt-1.0/s", digest=digest("c"))
    said = [
        Outcome(failure_class=FailureClass.CHECKPOINTED, rank=rank, step=step)
        for rank, step in enumerate(steps)
    ]
    if checkpoint:
        said[0] = said[0].model_copy(update={"checkpoint": kept})
    return status.model_copy(update=last_words(status, said))


def shown(status: ExperimentStatus) -> tuple[int, int] | None:
    """Return step and percentage."""
    return (status.progress.step, status.progress.percentage) if status.progress else None


@pytest.mark.parametrize("steps", [(40,), (0, 40), (40, 30)])
def test_last_words_raise_a_step_that_was_read_earlier(steps: tuple[int, ...]) -> None:
    assert shown(ended(asked(PLANNED, answer(30)), *steps)) == (40, 40)


def test_last_words_of_a_run_that_nobody_asked_are_shown() -> None:
    assert shown(ended(PLANNED, 40)) == (40, 40)


def test_last_words_never_lower_a_step() -> None:
    known = asked(PLANNED, answer(50))
    assert ended(known, 40).progress == known.progress
    assert ended(PLANNED, 0).progress is None


def test_no_pod_claims_more_steps_than_are_planned() -> None:
    assert shown(ended(PLANNED, 2**53)) == (100, 100)
    assert ended(ExperimentStatus(), 40).progress is None


def test_an_attempt_that_starts_shows_what_was_reached_until_it_takes_steps() -> None:
    stopped = ended(asked(PLANNED, answer(30)), 40, checkpoint=40)
    starting = asked(stopped, answer(0, None, "Starting"))
    assert starting.progress is not None
    assert (shown(starting), starting.progress.stage) == ((40, 40), "Starting")
    assert shown(asked(starting, answer(41, 40))) == (41, 41)


def test_a_revision_that_goes_on_from_a_checkpoint_shows_its_step_while_it_starts() -> None:
    kept = ended(PLANNED, 40, checkpoint=40).checkpoints
    revision = PLANNED.model_copy(update={"checkpoints": kept})
    assert shown(asked(revision, answer(0, None, "Starting"))) == (40, 40)


def test_a_rollback_is_shown() -> None:
    assert shown(asked(asked(PLANNED, answer(50)), answer(45))) == (45, 45)


def test_a_checkpoint_that_comes_with_the_answer_raises_the_step_with_it() -> None:
    known = asked(PLANNED, answer(30))
    newer = CheckpointRef(step=40, uri="pvc://c/attempt-1.0/s", digest=digest("c"))
    starting = answer(0, None, "Starting").model_copy(update={"checkpoint": newer})
    assert shown(asked(known, starting)) == (40, 40)
