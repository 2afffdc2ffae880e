"""How a training ends well: trained, stopped early, or evaluated only."""

from __future__ import annotations

from typing import Any

import pytest

from builders import (
    EXPERIMENT,
    PLAN,
    attempt,
    condition,
    digest,
    ended_pod,
    message,
    our_object,
    prepared,
)
from finetune_api.experiment_status import MetricStatus
from finetune_api.run_outcome import CheckpointRef, FailureClass, Outcome, TrainingSummary
from finetune_operator.observed import Observed, Plan
from finetune_operator.planners import plan
from observed_runs import running, seen

LOSS = MetricStatus(name="loss", split="test", value=2.0, step=0, rows=9)


def ended(summary: TrainingSummary, *, spec: dict[str, Any] | None = None, **fields: Any) -> Plan:
    """Return the answer to a Job whose rank 0 ended well."""
    outcome = Outcome(failure_class=FailureClass.COMPLETED, training=summary, **fields)
    pods = [ended_pod(i, FailureClass.COMPLETED, outcome=outcome) for i in range(2)]
    observed: Observed = seen(prepared(**attempt()), running(*pods, complete=True))
    if spec:
        nothing = {"totalSteps": 0, "stepsPerEpoch": 0, "warmupSteps": 0, "epochs": 0.0}
        status = prepared(**attempt()) | {"plan": PLAN | nothing}
        found = our_object(EXPERIMENT, status=status, **spec)
        observed = Observed(**{**vars(observed), "object": found})
    return plan(observed)


def trained(**fields: Any) -> Plan:
    """Return the answer to a run with a result."""
    result = CheckpointRef(step=60, uri="pvc://a/step-60", digest=digest("1"))
    summary = TrainingSummary(checkpoint_choice="Best", kind="Adapter")
    return ended(summary, result=result, step=60, **fields)


@pytest.mark.parametrize("reason", ["EarlyStopped", ""])
def test_a_run_that_stopped_early_is_complete_and_says_so(reason: str) -> None:
    found = trained(reason=reason)
    assert condition(found, "Complete") == ("True", reason or "Completed")
    assert condition(found, "Ready") == ("True", reason or "Completed")
    assert found.status["result"]["step"] == 60


def test_an_evaluation_is_complete_with_its_metrics_and_without_a_result() -> None:
    found = ended(TrainingSummary(metrics=[LOSS]), spec={"mode": "Evaluate"})
    assert condition(found, "Complete") == ("True", "Completed")
    assert message(found) == "the model is evaluated"
    assert found.status["metrics"][0]["split"] == "test"
    assert "result" not in found.status


def test_a_training_without_a_result_is_no_good_end() -> None:
    assert condition(ended(TrainingSummary()), "Ready")[0] != "True"
