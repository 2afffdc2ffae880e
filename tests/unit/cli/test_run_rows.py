"""What `finetune run` reads off an object's status."""

from __future__ import annotations

import pytest

from finetune_api.run_progress import Progress
from finetune_cli.run_rows import State, perplexity, row_of


def experiment(*conditions, generation=1, **status):
    judged = [{"observedGeneration": generation, "message": "", **c} for c in conditions]
    return {
        "kind": "FineTuneExperiment",
        "metadata": {"namespace": "default", "name": "demo", "generation": 1},
        "status": {"conditions": judged, **status},
    }


def condition(kind, status="True", reason="AsExpected", message=""):
    return {"type": kind, "status": status, "reason": reason, "message": message}


@pytest.mark.parametrize(
    ("conditions", "state"),
    [
        pytest.param([], State.RUNNING, id="not judged yet"),
        pytest.param([condition("Ready", "False", "Training")], State.RUNNING, id="training"),
        pytest.param([condition("Complete")], State.DONE, id="complete"),
        pytest.param([condition("Failed"), condition("Stalled")], State.FAILED, id="failed"),
        pytest.param([condition("Suspended")], State.SUSPENDED, id="suspended"),
        pytest.param(
            [condition("DependenciesReady", "False", "DependencyNotFound")],
            State.WAITING,
            id="a reference is missing",
        ),
        pytest.param(
            [condition("DependenciesReady", "False", "DependencyFailed")],
            State.FAILED,
            id="a reference can never become ready",
        ),
    ],
)
def test_the_conditions_say_whether_to_wait(conditions, state):
    assert row_of(experiment(*conditions)).state is state


def test_a_judgement_of_an_older_spec_does_not_count():
    stale = experiment(condition("Complete"), generation=0)
    assert row_of(stale).state is State.RUNNING


def test_a_fresh_answer_of_the_run_wins_over_the_stored_progress():
    item = experiment(
        condition("Ready", "False", "Training"), progress={"step": 10, "totalSteps": 100}
    )
    fresh = Progress(run="u/1", phase="Evaluating", step=50, total_steps=100, loss=1.5)
    row = row_of(item, fresh)
    assert (row.status, row.step, row.percentage, row.loss) == ("Evaluating", 50, 50, 1.5)


def test_perplexity_is_that_of_the_start_and_of_the_checkpoint_that_is_the_result():
    values = {0: 90.0, 100: 12.0, 200: 14.0}
    metrics = [
        {"name": "perplexity_corpus", "split": "validation", "step": step, "value": value}
        for step, value in values.items()
    ]
    item = experiment(condition("Complete"), metrics=metrics, result={"step": 100})
    assert perplexity(item) == (90.0, 12.0)
    assert row_of(item).message == "validation perplexity 90.0 → 12.0"
