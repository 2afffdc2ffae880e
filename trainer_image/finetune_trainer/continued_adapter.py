"""Takes over the adapter of another experiment: its trained tensors become this run's first."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from finetune_trainer.adapter import saved_name
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.merge import SafetensorsFolder

log = logging.getLogger("finetune_trainer")


@dataclass(frozen=True)
class Continued:
    """The trained tensors of a checkpoint that a run begins with, and what differs from its own."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    differing: Sequence[str] = ()


@torch.no_grad()
def continue_adapter(model: nn.Module, checkpoint: Path, *, strict: bool) -> Continued:
    """Return a checkpoint's tensors for the model, which takes over those it has room for.

    Optimizer state is not taken over. Raises ConfigurationError (AdapterMismatch) naming the
    differences where the weights must match; else tensors without a counterpart are left out, and
    those that the checkpoint lacks start afresh.
    """
    held = {saved_name(n): one for n, one in model.named_parameters() if one.requires_grad}
    found = SafetensorsFolder(checkpoint)
    shapes = {name: found.plan(name).shape for name in found}
    differing = [f"{name} is new" for name in held if name not in shapes]
    differing += [f"{name} is not trained here" for name in shapes if name not in held]
    fitting = [name for name in held if shapes.get(name) == tuple(held[name].shape)]
    differing += [
        f"{name} is {tuple(held[name].shape)}, was {shapes[name]}"
        for name in held
        if name in shapes and name not in fitting
    ]
    if differing and strict:
        raise ConfigurationError(
            f"spec.adapter: {len(differing)} tensors differ from the adapter of the starting "
            f"weights: {'; '.join(differing[:3])}; give equal targets, set model.adapterHandover "
            "Merge, or model.strict false",
            reason="AdapterMismatch",
        )
    if not fitting:
        raise ConfigurationError(
            "spec.model.fromExperiment: nothing of its adapter fits this run's; set "
            "model.adapterHandover Merge",
            reason="AdapterMismatch",
        )
    for one in differing:
        log.warning("starting weights: %s", one)
    tensors = {name: found[name] for name in fitting}
    for name, tensor in tensors.items():
        held[name].copy_(tensor)  # nothing happens where the model has no values yet
    return Continued(tensors, differing)
