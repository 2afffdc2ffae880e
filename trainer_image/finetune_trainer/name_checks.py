"""Finds name patterns without a match in preparation: the model's outline needs no weights."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from finetune_api.finetune_experiment import ExperimentSpec
from finetune_trainer.adapter import Trained, trainable_model
from finetune_trainer.model_config import model_config
from finetune_trainer.optim import parameter_groups
from finetune_trainer.parameter_match import ParameterMatch


def check_names(spec: ExperimentSpec, folder: Path, rank: int | None) -> None:
    """Build the model without memory, make trainable what the run will train, and group it.

    Raises ConfigurationError (NoMatchingParameters) as the run itself would, before it has a GPU.
    """
    training = spec.training
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(model_config(folder))
        trained = Trained(spec.adapter, rank, freeze=training.freeze or ())
        model = trainable_model(base, trained)
    named = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
    parameter_groups(named, training, ParameterMatch(model), 0.0)
