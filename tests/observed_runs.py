"""Observations of an experiment at the points of its life."""

from __future__ import annotations

from typing import Any

import builders
from builders import (
    DATASET,
    EXPERIMENT,
    ended_pod,
    job,
    observed,
    our_object,
    pod,
    prepared,
)
from finetune_api.run_outcome import FailureClass
from finetune_operator.observed import Observed, PodFacts

SUSPEND = {"runPolicy": {"suspend": True}}
DATASET_KEY = builders.key(DATASET)
CHECKPOINT = {"step": 40, "uri": "pvc://a/attempt-1.0/step-40", "digest": builders.digest("c")}


def seen(status: dict[str, Any] | None = None, *jobs: Any, **changes: Any) -> Observed:
    """Return what is observed of an experiment; `changes` are spec fields."""
    return observed(EXPERIMENT, our_object(EXPERIMENT, status=status, **changes), jobs=jobs)


def with_dataset(dataset: Any, /, **changes: Any) -> Observed:
    """Return an observation with another Dataset."""
    found = our_object(EXPERIMENT, **changes)
    return observed(EXPERIMENT, found, references={DATASET_KEY: dataset})


def preparing(number: int = 1, **fields: Any) -> dict[str, Any]:
    """Return the status of an experiment whose preparation is recorded."""
    status = prepared()
    digest = status["preparation"]["specDigest"]
    status["preparation"] = {"attempt": number, "specDigest": digest} | fields
    return {name: status[name] for name in ("revision", "preparation", "dataset")}


def running(*pods: PodFacts, **facts: Any) -> Any:
    """Return the Job of the first attempt."""
    return job(EXPERIMENT, 1, *pods, **facts)


STOPPING = {"conditions": builders.conditions(Ready="False Training", Suspended="Unknown Pending")}
STOPPING["conditions"][1]["reason"] = "SuspendRequested"
ALL_RUN = (pod(0), pod(1))
PENDING = (pod(0, "Pending", bound=False), pod(1, "Pending", bound=False))
ONE_DIED = (ended_pod(0, FailureClass.PEER_LOST), ended_pod(1, exit_code=137, outcome=None))
PREPARE_JOB = {"component": "prepare"}
