"""Compiles each decoder layer where that pays."""

from __future__ import annotations

import torch
from torch import nn

from finetune_api.run_config import TrainingConfig
from finetune_api.training_settings import Compile
from finetune_trainer.activation_memory import decoder_layers
from finetune_trainer.errors import ConfigurationError

WORTH_STEPS = 500
"""Steps from which a minute or so of compilation is small."""


def compile_layers(
    model: nn.Module, run: TrainingConfig, device: torch.device, *, backend: str = "inductor"
) -> int:
    """Compile every decoder layer in place, with a free token dimension; return their number.

    Auto leaves out runs on CPU, short ones, sharded ones and those with dropout or recomputation.
    Raises ConfigurationError where layers are not what the library calls layers.
    """
    asked = run.spec.training.compile
    drawn = run.spec.adapter.dropout or run.spec.model.intermediate_dropout
    if asked == Compile.NEVER:
        return 0
    if asked == Compile.AUTO:
        short = run.plan.total_steps < WORTH_STEPS
        sharded = run.plan.strategy not in ("SingleProcess", "DDP")
        recomputed = bool(run.plan.checkpointed_layers)
        if short or drawn or sharded or recomputed or device.type != "cuda":
            return 0
    layers = decoder_layers(model)
    if not layers:
        raise ConfigurationError(
            f"spec.training.compile: {type(model).__name__} has no layers to compile; set Never"
        )
    for layer in layers:
        layer.compile(dynamic=True, backend=backend)
    return len(layers)
