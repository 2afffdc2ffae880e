"""What `finetune run` reads off an object's status."""

from __future__ import annotations

import pytest

from finetune_api.run_progress import Progress
from finetune_cli.run_rows import State, after, perplexity, reference_of, row_of
from finetune_operator.observed import Key


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
            State.BLOCKED,
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


@pytest.mark.parametrize(
    ("awaited", "state"),
    [
        pytest.param(State.RUNNING, State.WAITING, id="still working"),
        pytest.param(State.FAILED, State.BLOCKED, id="failed"),
        pytest.param(State.BLOCKED, State.BLOCKED, id="itself blocked"),
        pytest.param(State.SUSPENDED, State.SUSPENDED, id="suspended"),
        pytest.param(None, State.WAITING, id="not there yet"),
    ],
)
def test_what_waits_for_something_that_never_comes_is_not_waited_for(awaited, state):
    waiting = row_of(experiment(condition("DependenciesReady", "False", "DependencyNotReady")))
    assert after(waiting, awaited).state is state


def test_an_experiment_waits_for_its_dataset_in_its_own_namespace():
    item = {**experiment(), "spec": {"dataset": {"name": "rows"}}}
    assert reference_of(item) == Key("Dataset", "default", "rows")


def test_a_reason_that_the_message_repeats_is_shown_once():
    failed = condition("Ready", "False", "InvalidData", "InvalidData: column a is empty")
    assert row_of(experiment(failed)).message == "column a is empty"
