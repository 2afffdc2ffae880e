"""Pure deciders: what was observed in, what is to be done out. No clock, no network, no chance."""

from __future__ import annotations

from dataclasses import replace

from finetune_api.names import DATASET, EXPERIMENT, EXPORT
from finetune_operator.observed import Observed, Plan
from finetune_operator.planners.answer import Answer, planned, unchanged
from finetune_operator.planners.export_work import ExportWork
from finetune_operator.planners.leftovers import cleanup_seconds, groups_left, leftovers
from finetune_operator.planners.plan_dataset import DatasetWork, plan_dataset
from finetune_operator.planners.plan_experiment import is_outdated, plan_experiment
from finetune_operator.planners.plan_export import plan_export
from finetune_operator.planners.preparation_work import PreparationWork
from finetune_operator.planners.rerun import rerun, wants_rerun
from finetune_operator.planners.training_work import TrainingWork
from finetune_operator.planners.work import Work
from finetune_operator.status import Situation, as_json, is_final

_WORKS: dict[str, tuple[type[Work], ...]] = {
    DATASET: (DatasetWork,),
    EXPERIMENT: (TrainingWork, PreparationWork),
    EXPORT: (ExportWork,),
}
_PLANNERS = {DATASET: plan_dataset, EXPERIMENT: plan_experiment, EXPORT: plan_export}


def plan(observed: Observed) -> Plan:
    """Return what an object needs next, and its complete new status."""
    decided = _plan(observed)
    groups = groups_left(observed, decided)
    return replace(decided, delete=(*decided.delete, *groups)) if groups else decided


def _plan(observed: Observed) -> Plan:
    if observed.object.metadata.deletion_timestamp is not None:
        return Plan(status=as_json(observed.object.status))
    if wants_rerun(observed):
        return rerun(observed, _WORKS[observed.key.kind])
    if is_final(observed.object.status) and not _begins_anew(observed):
        return unchanged(observed, delete=leftovers(observed), due=cleanup_seconds(observed))
    return _PLANNERS[observed.key.kind](observed)


def stalled(observed: Observed, reason: str, message: str) -> Plan:
    """Return the plan that says why the last one could not be carried out.

    A final result stays as it is: nothing that follows it is worth more than it.
    """
    if is_final(observed.object.status):
        return unchanged(observed)
    return planned(observed, Answer(Situation.REFUSED, reason, message))


def _begins_anew(observed: Observed) -> bool:
    """A failure before the first attempt ends with an edit of the spec."""
    return observed.key.kind == EXPERIMENT and is_outdated(observed)
