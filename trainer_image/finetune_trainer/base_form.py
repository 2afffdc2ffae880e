"""How the base model of a run is built: configuration, first weights, attention, rows.

The plan says it; this device may not serve it, and then the run changes or is refused here.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from finetune_api.model_settings import Attention, Dtype, InitialWeights
from finetune_api.run_config import TrainingConfig
from finetune_api.training_settings import Batching, Mode
from finetune_trainer.attention import packed_attention, padded_attention, takes_segments
from finetune_trainer.engine import Engine
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.model import compute_type, load_base, skeleton
from finetune_trainer.model_config import model_config, random_model
from finetune_trainer.probes import check_loss, samples_stay_apart
from finetune_trainer.router_balance import RouterBalance, router_balance

log = logging.getLogger("finetune_trainer")


@dataclass(frozen=True)
class BaseForm:
    """What a model is built from."""

    config: Any
    attention: str
    """attention is the name of a registered function."""
    padded: bool
    seed: int | None = None
    """seed draws the first weights; None = they are loaded."""
    balance: RouterBalance | None = None
    """balance is the loss of its router, where the model asks for one."""

    def model(self, folder: Path, dtype: torch.dtype) -> nn.Module:
        """Return the base model in a type."""
        if self.seed is not None:
            return random_model(self.config, dtype, seed=self.seed, attention=self.attention)
        return load_base(folder, dtype, config=self.config, attention=self.attention)

    def skeleton(self, dtype: torch.dtype) -> nn.Module:
        """Return the base model without values."""
        return skeleton(self.config, dtype, attention=self.attention)


def base_form(run: TrainingConfig, folder: Path, device: torch.device) -> BaseForm:
    """Return the form of a run's base on a device; raises ConfigurationError."""
    config = model_config(folder, run.spec.model.intermediate_dropout)
    balance = router_balance(config) if run.spec.mode is Mode.TRAIN else None
    # Only training's forward asks: evaluation and answers would pay for it too, and the library
    # cannot count where it has a cache.
    if getattr(config.get_text_config(), "output_router_logits", False):
        config.get_text_config().output_router_logits = False
    asked, planned = run.spec.model.attention, Attention(run.plan.attention)
    padded = run.plan.batching == Batching.PADDED
    if not padded and not takes_segments(config):
        _check_fallback(run, config.model_type)
        padded = True
    dtype = run_type(run, device)
    if padded:
        attention = padded_attention(config, planned)
    else:
        attention = packed_attention(planned, asked, dtype, device)
    random = run.spec.model.initial_weights == InitialWeights.RANDOM
    return BaseForm(config, attention, padded, run.plan.seed if random else None, balance)


def run_type(run: TrainingConfig, device: torch.device) -> torch.dtype:
    """Return the type of arithmetic; planned BFloat16 that a GPU lacks is Float16 under Auto."""
    planned = compute_type(run.plan.compute_dtype, device)
    if planned is not torch.bfloat16 or device.type != "cuda":
        return planned
    found = compute_type(Dtype.AUTO, device)
    if found is not planned and run.spec.training.compute_dtype is not Dtype.AUTO:
        raise ConfigurationError(
            "spec.training.computeDtype: this GPU has no BFloat16; set Auto or Float16"
        )
    return found


def proven_form(run: TrainingConfig, form: BaseForm, engine: Engine) -> BaseForm:
    """Probe the loaded model on all ranks; return the form it trains in.

    Samples that see each other in one row get rows of their own, where batching is Auto; then
    attention is changed in place. Raises ConfigurationError for what no form makes right.
    """
    task = engine.task
    if not form.padded and not engine.forward(lambda: samples_stay_apart(task)):
        _check_fallback(run, form.config.model_type)
        causal: Any = task.model
        causal = causal.get_base_model() if hasattr(causal, "peft_config") else causal
        planned = Attention(run.plan.attention)
        form = replace(form, padded=True, attention=padded_attention(form.config, planned))
        causal.set_attn_implementation(form.attention)
    engine.forward(lambda: check_loss(task, padded=form.padded))
    return form


def _check_fallback(run: TrainingConfig, name: str) -> None:
    if run.spec.training.batching == Batching.PACKED:
        raise ConfigurationError(
            f"spec.training.batching: samples of {name} see each other when they share a row; set "
            "Auto or Padded",
            reason="UnsupportedModel",
        )
    log.warning("samples of %s see each other in one row: each gets a row of its own", name)
