"""What follows an update that was not finite and so not applied: an end, a count, or a way back."""

from __future__ import annotations

import math

from finetune_api.training_settings import NonFinitePolicy
from finetune_trainer.errors import NotFiniteError
from finetune_trainer.run_record import RunRecord

MOST_IN_A_ROW, MOST_IN_ALL, MOST_ROLLBACKS = 5, 50, 2
MOST_OVERFLOWS_IN_A_ROW = 30
"""A loss scale that was halved so often is far below 1: it is not the scale that overflows."""


class RollbackDueError(Exception):
    """The run goes back to its newest verified checkpoint; raised on all ranks at once."""

    def __init__(self, step: int) -> None:
        super().__init__(f"the update of step {step + 1} was not finite")
        self.step = step


def judge(
    record: RunRecord, policy: NonFinitePolicy, step: int, norm: float, *, scaled: bool = False
) -> None:
    """Take in the gradient norm of a step, counted from 0; every rank knows the same norm.

    With a `scaled` loss an overflow is no event but one more try of the scale; that the loss
    itself is not finite is told by a second call, with the loss. Raises NotFiniteError when the
    run must end, RollbackDueError when it must go back.
    """
    if math.isfinite(norm):
        record.skipped_in_a_row = record.overflows_in_a_row = 0
        return
    if scaled:
        record.overflows += 1
        record.overflows_in_a_row += 1
        if record.overflows_in_a_row <= MOST_OVERFLOWS_IN_A_ROW:
            return
    if policy is NonFinitePolicy.SKIP:
        record.skipped += 1
        record.skipped_in_a_row += 1
        if record.skipped_in_a_row <= MOST_IN_A_ROW and record.skipped <= MOST_IN_ALL:
            return
    if policy is NonFinitePolicy.ROLLBACK and record.rollbacks < MOST_ROLLBACKS:
        raise RollbackDueError(step)
    raise NotFiniteError(
        f"step {step + 1}: the loss or its gradient is not finite (norm {norm}){_before(record)}; "
        "the update was not applied. Lower training.learningRate, clip, or look at the data of "
        "this step",
        remedy="lower training.learningRate or training.maxGradNorm",
    )


def _before(record: RunRecord) -> str:
    if record.skipped:
        return f", {record.skipped_in_a_row} in a row and {record.skipped} in all were skipped"
    return f" after {record.rollbacks} rollbacks" if record.rollbacks else ""
