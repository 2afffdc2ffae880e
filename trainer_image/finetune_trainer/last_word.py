"""The termination message of a pod, and the classification of whatever was raised."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path
from traceback import extract_tb

from finetune_api import names
from finetune_api.run_outcome import EXIT_CODES, FailureClass, Outcome
from finetune_trainer.errors import TrainerError

log = logging.getLogger("finetune_trainer")


def write_last_word(outcome: Outcome) -> int:
    """Write the termination message and return the exit code of its class.

    The file is the kubelet's, not a result: it is overwritten, and a pod without one ends well.
    """
    said = " ".join(filter(None, (outcome.reason, outcome.message, outcome.remedy)))
    log.info("%s%s", outcome.failure_class.value, f": {said}" if said else "")
    path = Path(os.environ.get(names.TERMINATION_LOG_ENV, names.TERMINATION_LOG))
    with suppress(OSError):
        path.write_bytes(outcome.encoded())
    return EXIT_CODES[outcome.failure_class]


def outcome_of(error: BaseException) -> Outcome:
    """Return the outcome of a raised exception.

    An unexpected exception contributes its class and place, never its text: that may hold values
    from data, and this message ends in events.
    """
    if isinstance(error, TrainerError):
        return Outcome(
            failure_class=error.failure,
            reason=error.reason,
            message=error.message[:1024],
            remedy=error.remedy[:256],
        )
    if isinstance(error, MemoryError):
        return Outcome(
            failure_class=FailureClass.RESOURCES_EXHAUSTED,
            reason="OutOfHostMemory",
            message="the process ran out of memory; raise compute.resources",
        )
    return Outcome(failure_class=FailureClass.UNKNOWN, message=_place(error)[:1024])


def _place(error: BaseException) -> str:
    frames = extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "finetune_trainer" in frame.filename]
    where = " < ".join(
        f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
        for frame in reversed((ours or frames)[-4:])
    )
    return f"unexpected {type(error).__name__} at {where}; the log has the details"
