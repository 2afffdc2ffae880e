"""A ModelExport waits for its experiment, then publishes the checkpoint that was chosen."""

from __future__ import annotations

from typing import Any

import pytest

import builders
from builders import (
    DATASET,
    EXPERIMENT,
    EXPORT,
    condition,
    ended_pod,
    job,
    message,
    observed,
    our_object,
    pod,
)
from finetune_api.names import CONFIG_KEY
from finetune_api.run_config import ExportJobConfig
from finetune_api.run_outcome import FailureClass
from finetune_operator.observed import Observed
from finetune_operator.planners import plan
from good_ends import exported

SOURCE = builders.key(EXPERIMENT)
RECORDED = {"attempt": {"number": 1}}
LATEST = {"step": 100, "uri": "pvc://a/step-100", "digest": builders.digest("b")}


def seen(status: dict[str, Any] | None = None, *jobs: Any, **spec: Any) -> Observed:
    """Return what is observed of an export of a complete experiment."""
    return observed(EXPORT, our_object(EXPORT, status=status, **spec), jobs=jobs)


def of(experiment: Any, **spec: Any) -> Observed:
    """Return what is observed of an export of another experiment."""
    export = our_object(EXPORT, **spec)
    return observed(EXPORT, export, references={SOURCE: experiment})


@pytest.mark.parametrize(
    ("experiment", "reason"),
    [
        pytest.param(None, "DependencyNotFound", id="missing"),
        pytest.param(our_object(EXPERIMENT), "DependencyNotReady", id="not complete"),
        pytest.param(
            our_object(EXPERIMENT, status={"conditions": builders.conditions(Failed="True X")}),
            "DependencyFailed", id="failed",
        ),
    ],
)  # fmt: skip
def test_an_export_waits_for_its_experiment_by_name(experiment: Any, reason: str) -> None:
    decided = plan(of(experiment))
    assert condition(decided, "Ready") == ("False", "Preparing")
    assert condition(decided, "DependenciesReady") == ("False", reason)
    assert "FineTuneExperiment assistant" in message(decided)
    assert (decided.waits_for, decided.apply) == ((SOURCE,), ())


@pytest.mark.parametrize(
    ("choice", "digest"), [("Result", builders.digest("e")), ("Last", builders.digest("b"))]
)
def test_the_chosen_checkpoint_is_exported(choice: str, digest: str) -> None:
    experiment = builders.complete_experiment(checkpoints={"latest": LATEST})
    source = {"experiment": {"name": "assistant", "checkpoint": choice}}
    export = our_object(EXPORT, status=RECORDED, source=source)
    decided = plan(observed(EXPORT, export, references={SOURCE: experiment}))
    config = ExportJobConfig.model_validate_json(
        builders.child(decided, "ConfigMap")["data"][CONFIG_KEY]
    )
    assert config.checkpoint.digest == digest
    assert (config.baseline, config.metrics) == (
        {"perplexity_corpus": 9.0}, {"perplexity_corpus": 3.0},
    )  # fmt: skip


def test_a_checkpoint_that_is_not_kept_is_refused() -> None:
    source = {"experiment": {"name": "assistant", "checkpoint": "Best"}}
    decided = plan(of(builders.complete_experiment(), source=source))
    assert condition(decided, "Stalled") == ("True", "CheckpointNotFound")
    assert condition(decided, "Merged") == ("False", "CheckpointNotFound")


def test_a_verified_artifact_makes_the_export_ready() -> None:
    done = ended_pod(0, FailureClass.COMPLETED, outcome=exported())
    decided = plan(seen(RECORDED, job(EXPORT, 1, done, complete=True)))
    assert condition(decided, "Ready") == ("True", "Ready")
    for name in ("Merged", "Verified", "Pushed", "DependenciesReady"):
        assert condition(decided, name) == ("True", "AsExpected")
    assert decided.status["artifact"]["digest"] == builders.digest("a")


def test_pushed_counts_the_targets_of_the_spec() -> None:
    target = {"name": "folder", "volumeClaim": {"claimName": "artifacts"}}
    done = ended_pod(0, FailureClass.COMPLETED, outcome=exported())
    decided = plan(seen(RECORDED, job(EXPORT, 1, done, complete=True), targets=[target]))
    assert decided.status["pushed"] == "0/1"


@pytest.mark.parametrize(
    ("reason", "turned"),
    [("MergeFailed", "Merged"), ("VerificationFailed", "Verified"), ("TargetConflict", "Pushed")],
)
def test_a_failure_turns_the_condition_it_belongs_to(reason: str, turned: str) -> None:
    told = builders.outcome(FailureClass.CONFIGURATION, reason=reason)
    bad = ended_pod(0, FailureClass.CONFIGURATION, outcome=told)
    decided = plan(seen(RECORDED, job(EXPORT, 1, bad, failed=True)))
    assert condition(decided, turned) == ("False", reason)
    assert condition(decided, "Failed") == ("True", reason)


@pytest.mark.parametrize("phase", ["Merging", "Verifying", "Pushing"])
def test_the_stage_is_the_reason(phase: str) -> None:
    live = job(EXPORT, 1, pod(), progress=builders.progress(phase, percentage=10))
    assert condition(plan(seen(RECORDED, live)), "Ready") == ("False", phase)


def test_an_export_that_runs_does_not_mind_what_becomes_of_its_experiment() -> None:
    export = our_object(EXPORT, status=RECORDED)
    live = job(EXPORT, 1, pod())
    decided = plan(observed(EXPORT, export, references={SOURCE: None}, jobs=(live,)))
    assert condition(decided, "Ready") == ("False", "Starting")


@pytest.mark.parametrize(("digest", "license_of"), [("d", "CC-BY-4.0"), ("0", None)])
def test_the_card_gets_the_license_of_the_data_that_was_trained_on(
    digest: str, license_of: str | None
) -> None:
    dataset = builders.ready_dataset(license="CC-BY-4.0", digest=builders.digest(digest))
    known = {SOURCE: builders.complete_experiment(), builders.key(DATASET): dataset}
    export = our_object(EXPORT, status=RECORDED)
    decided = plan(observed(EXPORT, export, references=known))
    config = ExportJobConfig.model_validate_json(
        builders.child(decided, "ConfigMap")["data"][CONFIG_KEY]
    )
    assert config.dataset_license == license_of


@pytest.mark.parametrize("kind", [DATASET, EXPERIMENT, EXPORT])
def test_a_name_that_somebody_else_holds_is_never_taken(kind: str) -> None:
    decided = plan(observed(kind, foreign_names=frozenset({"Job x"})))
    assert condition(decided, "Stalled") == ("True", "NameTaken")
    assert decided.apply == ()
