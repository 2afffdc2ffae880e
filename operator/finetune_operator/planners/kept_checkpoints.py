"""The checkpoints others may take from an experiment: an export, or a run that starts there."""

from __future__ import annotations

from finetune_api.finetune_experiment import FineTuneExperiment
from finetune_api.run_outcome import CheckpointRef


def kept_checkpoints(experiment: FineTuneExperiment) -> dict[str, CheckpointRef]:
    """Return what is kept by the name it is asked for with: Result, Best, Last."""
    status = experiment.status
    found = {
        "Result": status.result,
        "Best": status.checkpoints.best,
        "Last": status.checkpoints.latest,
    }
    return {
        name: CheckpointRef(step=one.step, uri=one.uri, digest=one.digest)
        for name, one in found.items()
        if one is not None
    }
