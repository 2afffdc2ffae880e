"""Runs a verb that is one process: config in, progress port beside it, last word out."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from prometheus_client import generate_latest
from pydantic import ValidationError

from finetune_api import names
from finetune_api.run_config import CONFIGS, RunConfig
from finetune_api.run_outcome import FailureClass, Outcome
from finetune_api.version_floors import TRAINER_FLOORS, TRAINER_REFUSES, unsafe_packages
from finetune_trainer.deletion_note import note_deletion_policy
from finetune_trainer.errors import (
    CheckpointedExit,
    ConfigurationError,
    DataError,
    TrainerError,
)
from finetune_trainer.last_word import outcome_of, write_last_word
from finetune_trainer.progress_port import Answers, progress_port
from finetune_trainer.stage_report import StageReporter

log = logging.getLogger("finetune_trainer")

Run = Callable[[Any, StageReporter], Any]
"""`run(config, report)` returns the summary of its verb, e.g. a `DatasetSummary`."""


def read_config(verb: str) -> RunConfig:
    """Return the config of a verb from the mounted file; raise ConfigurationError with fields.

    An image with unsafe libraries is refused first: nothing has been read yet.
    """
    if problems := unsafe_packages(TRAINER_FLOORS, TRAINER_REFUSES):
        raise ConfigurationError(f"image: {'; '.join(problems)}; use the image of a release")
    path = Path(os.environ.get(names.CONFIG_ENV, f"{names.CONFIG_DIR}/{names.CONFIG_KEY}"))
    try:
        return CONFIGS[verb].model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(
            f"{names.CONFIG_ENV}: {path} cannot be read ({error.strerror}); mount the config there"
        ) from error
    except ValidationError as error:
        found = "; ".join(
            f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()
        )
        raise ConfigurationError(f"config of verb {verb}: {found}; use one release") from error


def run_verb(verb: str, run: Run) -> int:
    """Run a verb from its mounted config to its last word; return the exit code."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    signal.signal(signal.SIGTERM, _stop)
    report: StageReporter | None = None
    try:
        config = read_config(verb)
        note_deletion_policy(config)
        report = StageReporter(config.identity)
        with progress_port(_answers(report)):
            summary = run(config, report)
        outcome = Outcome.model_validate(
            {"class": FailureClass.COMPLETED, _field(verb): summary}, strict=False
        )
    except Exception as error:
        log_failure(f"{verb} failed", error)
        outcome = _with_summary(outcome_of(error), verb, error)
    return write_last_word(_with_findings(outcome, report))


def log_failure(what: str, error: Exception) -> None:
    """Log a failure with its stack, unless it was raised on purpose: the last word tells those."""
    if not isinstance(error, TrainerError):
        log.error("%s", what, exc_info=error)


def _field(verb: str) -> str:
    return {"prepare": "preparation", "train": "training"}.get(verb, verb)


def _with_summary(outcome: Outcome, verb: str, error: BaseException) -> Outcome:
    """Keep the summary that a Dataset which failed on its data attaches to the error."""
    summary = getattr(error, "summary", None)
    if not isinstance(error, DataError) or summary is None:
        return outcome
    return outcome.model_copy(update={_field(verb): summary})


def _with_findings(outcome: Outcome, report: StageReporter | None) -> Outcome:
    if report is None:
        return outcome
    return outcome.model_copy(
        update={"artifacts": report.artifacts[-4:], "warnings": report.warnings[:4]}
    )


def _answers(report: StageReporter) -> Answers:
    return Answers(
        progress=lambda: report.answer().model_dump_json(by_alias=True, exclude_none=True).encode(),
        metrics=generate_latest,
    )


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise CheckpointedExit("stopped on request; the job writes nothing twice and can run again")
