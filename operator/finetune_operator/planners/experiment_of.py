"""Narrows what was observed to the FineTuneExperiment that it is."""

from __future__ import annotations

from finetune_api.finetune_experiment import FineTuneExperiment
from finetune_operator.observed import Observed
from finetune_operator.planners.settled import is_a


def experiment_of(observed: Observed) -> FineTuneExperiment:
    """Return the observed object as the experiment that `plan` dispatched on."""
    return is_a(observed.object, FineTuneExperiment)
