"""What is refused before any Job of an experiment is made: its preparation and its training."""

from __future__ import annotations

from finetune_operator import checks
from finetune_operator.checks import Refusal
from finetune_operator.observed import Observed
from finetune_operator.planners.experiment_of import experiment_of
from finetune_operator.planners.recorded_attempt import first_refusal
from finetune_operator.planners.spending import the_budget_has_a_price


def run_refusal(observed: Observed) -> Refusal | None:
    """Return the first check of spec, administrator and cluster that does not hold."""
    spec, policy = experiment_of(observed).spec, observed.policy
    return first_refusal(
        checks.names_are_free(observed.foreign_names),
        checks.results_have_a_place(spec.storage, policy),
        checks.the_model_is_allowed(spec.model, policy),
        the_budget_has_a_price(spec, policy),
        checks.the_network_profile_is_known(spec.compute, policy),
        checks.the_kinds_are_there(spec.scheduling, policy, observed.unserved_kinds),
    )
