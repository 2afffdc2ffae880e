"""A toy model with loss and engine in this process, for tests of single steps."""

from __future__ import annotations

from pathlib import Path

import torch

from finetune_api.model_settings import Adapter, AdapterType
from finetune_api.training_settings import Training
from finetune_trainer.adapter import Trained, trainable_model
from finetune_trainer.distributed import World
from finetune_trainer.engine import Engine
from finetune_trainer.guarded_update import GuardedUpdate
from finetune_trainer.model import load_base
from finetune_trainer.optim import optimizer_recipe
from finetune_trainer.problems.causal_lm import CausalLanguageModelling
from toy_llama import toy_llama_folder


def toy_engine(
    folder: Path, *, full: bool = True, dropout: float = 0.0, peak: float = 1e-3, **model
) -> Engine:
    """Return an engine of one process in float32."""
    torch.set_num_threads(1)
    kind = AdapterType.NONE if full else AdapterType.LORA
    base = load_base(toy_llama_folder(folder / "toy", **model), torch.float32)
    adapter = Adapter(type=kind, dropout=dropout)
    trained = trainable_model(base, Trained(adapter, rank=4, alpha=8.0, seed=5))
    task = CausalLanguageModelling(trained, 5)
    recipe = optimizer_recipe(trained, Training(), peak)
    update = lambda named: GuardedUpdate(recipe(named), torch.device("cpu"), keep_flag=True)  # noqa: E731
    return Engine(task, update, World(), torch.float32)


def gradients(engine: Engine) -> dict[str, torch.Tensor]:
    """Return copies of all gradients by parameter name."""
    return {
        name: parameter.grad.clone()
        for name, parameter in engine.task.model.named_parameters()
        if parameter.grad is not None
    }


def tensors(engine: Engine) -> dict[str, torch.Tensor]:
    """Return copies of everything an update may change."""
    every = [*engine.weights(), *engine.moments()]
    return {piece.name: piece.tensor.clone() for piece in every}
