"""Builds what a rank trains: base, quantisation, adapters, recomputation, task, engine, probes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from finetune_api.model_settings import AdapterType, Dtype, Quantization
from finetune_api.run_config import TrainingConfig
from finetune_api.strategy_settings import Strategy
from finetune_api.training_settings import NonFinitePolicy
from finetune_trainer.activation_memory import checkpoint_layers
from finetune_trainer.adapter import Trained, trainable_model
from finetune_trainer.adapter_targets import saved_modules
from finetune_trainer.base_form import BaseForm, base_form, proven_form, run_type
from finetune_trainer.continued_adapter import Continued, continue_adapter
from finetune_trainer.determinism import repeat_exactly
from finetune_trainer.device_memory import device_estimate
from finetune_trainer.distributed import World
from finetune_trainer.engine import BuildUpdate, Engine
from finetune_trainer.engine_choice import engine_for
from finetune_trainer.first_weights import BaseWeights, FirstWeights, base_weights
from finetune_trainer.guarded_update import GuardedUpdate
from finetune_trainer.layer_compile import compile_layers
from finetune_trainer.model import compute_type
from finetune_trainer.model_config import has_dropout
from finetune_trainer.optim import optimizer_recipe
from finetune_trainer.probes import check_adapters
from finetune_trainer.problems.causal_lm import CausalLanguageModelling
from finetune_trainer.quantisation import Quantiser, quantise, quantiser
from finetune_trainer.rank_folder import RankFolder
from finetune_trainer.strategy_checks import sharded
from finetune_trainer.vocabulary import new_rows


class Assembled(NamedTuple):
    """What a rank trains."""

    engine: Engine
    form: BaseForm
    differing: Sequence[str]
    """differing are the tensors of a continued adapter that do not fit; rank 0 knows."""


def assembled_engine(
    config: TrainingConfig, folder: RankFolder, world: World, beat: Callable[[], None]
) -> Assembled:
    """Return the engine of a run, the form its base trains in, and how its start differs.

    A collective call.

    Raises ConfigurationError for what this model or this device cannot do.
    """
    if config.spec.training.deterministic:
        repeat_exactly()
    form = base_form(config, folder.model, world.device)
    base = held_base(config, form, folder, world)
    beat()
    model = trainable_model(base.model, _trained(config, folder, world.device))
    first, differing = _begun(config, folder, world, base, model)
    estimate = device_estimate(config, folder.model, world.device)
    layers = estimate.settings.checkpointed if estimate else config.plan.checkpointed_layers or 0
    checkpoint_layers(model, layers, own_dropout=has_dropout(form.config))
    compile_layers(model, config, world.device)
    task = _task(config, model, form)
    dtype = run_type(config, world.device)
    engine = engine_for(config, task, _update(config, model, dtype), world, dtype, first)
    beat()
    return Assembled(engine, proven_form(config, form, engine), differing)


@dataclass(frozen=True)
class HeldBase:
    """A base model, and on the rank that reads for all others what it begins with."""

    model: Any
    weights: BaseWeights | None = None
    quantiser: Quantiser | None = None


def held_base(config: TrainingConfig, form: BaseForm, folder: RankFolder, world: World) -> HeldBase:
    """Return the base in the type it is held in, quantised if the plan says so.

    For sharded strategies it has no values: the engine gives every rank its part of what rank 0
    reads, so neither a device nor a host ever holds the whole model.
    """
    spec, dtype, weights = config.spec, _held(config, world.device), None
    if spec.adapter.type is AdapterType.NONE:
        dtype = torch.float32  # masters; arithmetic is in the compute type by autocast
    spread = sharded(config.plan.strategy)
    base = form.skeleton(dtype) if spread else form.model(folder.model, dtype)
    if spread and world.rank == 0:
        weights = base_weights(form, folder.model, base, dtype, new_rows(folder.prepared))
    compute, kind = run_type(config, world.device), Quantization(config.plan.quantization)
    # Sharding cuts tensors of one floating type only.
    by_layer = config.plan.strategy == Strategy.FSDP
    chosen = quantiser(kind, spec.model, compute, compute if by_layer else torch.uint8)
    device = torch.device("meta") if spread else world.device
    if chosen is not None:
        quantise(base, chosen, device, saved_modules(base, spec.adapter))
    return HeldBase(base if spread else base.to(device), weights, chosen)


def _begun(
    config: TrainingConfig, folder: RankFolder, world: World, base: HeldBase, model: nn.Module
) -> tuple[FirstWeights | None, Sequence[str]]:
    """Give the model its first values where it has any room for them, or return where they are.

    Rank 0 has them for sharded strategies. Also proves the adapters' fused forward, and returns
    what of a continued adapter differs from the run's.
    """
    spread, continued = sharded(config.plan.strategy), Continued()
    if spread and base.weights is None:
        return None, ()
    if folder.adapter is not None:
        continued = continue_adapter(model, folder.adapter, strict=config.spec.model.strict)
    first = None
    if base.weights is not None:
        seed = config.plan.seed
        first = FirstWeights(base.weights, model, seed, base.quantiser, continued.tensors)
    with torch.autocast(world.device.type, enabled=False):
        if first is None:
            check_adapters(model)
        else:
            check_adapters(model, first.layer)
    return first, continued.differing


def _held(config: TrainingConfig, device: torch.device) -> torch.dtype:
    """Return the type of frozen weights that are not quantised."""
    asked = config.spec.model.dtype
    return run_type(config, device) if asked is Dtype.AUTO else compute_type(asked, device)


def _trained(config: TrainingConfig, folder: RankFolder, device: torch.device) -> Trained:
    return Trained(
        adapter=config.spec.adapter,
        rank=config.plan.rank,
        alpha=config.plan.alpha,
        seed=config.plan.seed,
        freeze=config.spec.training.freeze or (),
        rows=new_rows(folder.prepared),
        frozen_dtype=_held(config, device),
    )


def _task(config: TrainingConfig, model: nn.Module, form: BaseForm) -> CausalLanguageModelling:
    augmentation = config.spec.augmentation
    return CausalLanguageModelling(
        model,
        config.plan.seed,
        smoothing=config.spec.training.label_smoothing,
        noise=augmentation.neftune_noise_alpha if augmentation else 0.0,
        balance=form.balance,
    )


def _update(config: TrainingConfig, model: nn.Module, dtype: torch.dtype) -> BuildUpdate:
    recipe = optimizer_recipe(model, config.spec.training, config.plan.learning_rate)
    # Skipping goes on with the next update, as does a scaled loss that overflowed; the other
    # policies stop before it.
    skips = config.spec.training.non_finite_policy is NonFinitePolicy.SKIP
    keep_flag = not skips and dtype is not torch.float16
    return lambda named: GuardedUpdate(recipe(named), named[0][1].device, keep_flag=keep_flag)
