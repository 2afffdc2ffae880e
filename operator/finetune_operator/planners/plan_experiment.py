"""Decides what a FineTuneExperiment needs next: a preparation on CPU, then attempts to train."""

from __future__ import annotations

from finetune_api.status_parts import Restarts
from finetune_operator.manifests.identity import spec_digest
from finetune_operator.observed import Observed, Plan
from finetune_operator.planners.answer import Answer, planned
from finetune_operator.planners.attempt_life import lived
from finetune_operator.planners.experiment_of import experiment_of
from finetune_operator.planners.life import life
from finetune_operator.planners.preparation_work import PreparationWork
from finetune_operator.planners.training_work import TrainingWork
from finetune_operator.planners.work import REPLACED
from finetune_operator.status import Situation


def plan_experiment(observed: Observed) -> Plan:
    """Return the answer for an experiment that is neither deleted nor final."""
    if is_outdated(observed):
        return _prepared_again(observed)
    prepared = experiment_of(observed).status.preparation.complete
    return lived(TrainingWork(observed) if prepared else PreparationWork(observed))


def is_outdated(observed: Observed) -> bool:
    """Tell whether the spec was edited after it was prepared and before the first attempt.

    Later edits of what is prepared are refused by the API server.
    """
    experiment = experiment_of(observed)
    preparation = experiment.status.preparation
    if experiment.status.attempt.number or not preparation.attempt:
        return False
    replaced = preparation.ended == REPLACED
    return not replaced and preparation.spec_digest != spec_digest(experiment.spec)


def _prepared_again(observed: Observed) -> Plan:
    """End the outdated preparation; the next one starts once its pods are gone."""
    work = PreparationWork(observed)
    preparation = experiment_of(observed).status.preparation
    ended = preparation.model_copy(
        update={"ended": REPLACED, "complete": False, "uri": "", "digest": ""}
    )
    forgotten = dict.fromkeys(
        ("plan", "model", "dataset", "start", "truncation", "completion_time")
    )
    updates = {"preparation": ended, "restarts": Restarts()} | forgotten
    message = "the spec was edited; it is prepared again"
    said = life(work).verdicts(updates)
    return planned(observed, Answer(Situation.UNDER_WAY, "Preparing", message, updates, said))
