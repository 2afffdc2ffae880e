"""Resolves what a spec leaves open from recorded facts; a restart uses the result, not the rule."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from finetune_api.experiment_plan import PlanStatus
from finetune_api.finetune_experiment import ExperimentSpec
from finetune_api.memory_plan import MemoryEstimate
from finetune_api.model_settings import AdapterType, Dtype
from finetune_api.model_shape import ModelShape
from finetune_api.presets import preset_of
from finetune_api.strategy_settings import Strategy
from finetune_api.training_settings import Batching, Mode
from finetune_trainer.augmentation import AugmentedSamples
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.mixture import Mixture
from finetune_trainer.plan import Plan, PlanSettings
from finetune_trainer.resolved_memory import (
    Batches,
    check_compile,
    check_model,
    checkpointed_layers,
    memory_status,
    resolved_batches,
    resolved_memory,
)
from finetune_trainer.run_plan import augmentation_of, changes
from finetune_trainer.sample_choices import SampleChoices
from finetune_trainer.store import canonical_json
from finetune_trainer.strategy_checks import check_strategy
from finetune_trainer.weight_checks import check_weights

ADAPTER_RATE, FULL_RATE = 1e-4, 1e-5


@dataclass(frozen=True)
class PreparedFacts:
    """What preparation found out."""

    lengths: Sequence[int]
    supervised: Sequence[int]
    max_length: int
    template: str
    prepared_digest: str
    model_identity: str
    seed: int
    shape: ModelShape | None = None
    """shape of the model, as far as its configuration tells it."""
    trained: int | None = None
    """trained parameters, where the model's files lie here."""
    choices: SampleChoices = field(default_factory=SampleChoices)
    """choices about the training samples beside their tokens."""


def ranks_of(spec: ExperimentSpec) -> int:
    """Return the number of ranks of an attempt."""
    compute = spec.compute
    return compute.nodes * (compute.gpus_per_node or compute.processes_per_node or 1)


def resolved_plan(spec: ExperimentSpec, facts: PreparedFacts) -> PlanStatus:
    """Return every number of the run; raise ConfigurationError for settings that cannot act."""
    check_model(spec)
    if spec.mode is Mode.EVALUATE:
        return _evaluation(spec, facts)
    preset = preset_of(spec)
    batches = resolved_batches(spec, facts.shape, _compute_dtype(spec))
    memory = _memory(spec, facts, batches)
    layout = _layout(spec, batches, memory)
    check_strategy(spec, layout["strategy"], ranks_of(spec), batches.compute_dtype)
    check_compile(spec, layout["strategy"])
    check_weights(spec, layout["strategy"], batches.compute_dtype)
    plan = _steps(spec, facts, batches, memory)
    status = PlanStatus(
        **layout,
        **_adapter(spec),
        template=facts.template,
        gpus=spec.compute.nodes * spec.compute.gpus_per_node,
        max_length=facts.max_length,
        per_device_batch_size=preset.per_device_batch_size,
        global_batch_size=plan.settings.samples,
        global_batch_tokens=plan.settings.tokens or None,
        mask_token=facts.choices.mask_token,
        validation_seen=spec.dataset.include_validation,
        max_tokens_per_device=plan.settings.budget,
        steps_per_epoch=plan.steps_per_epoch,
        total_steps=plan.total_steps,
        warmup_steps=_warmup(spec, plan.total_steps),
        seed=facts.seed,
        epochs=_epochs(spec, plan),
    )
    return status.model_copy(update={"digest": _identity(spec, status, plan, facts)})


def _memory(spec: ExperimentSpec, facts: PreparedFacts, batches: Batches) -> MemoryEstimate | None:
    return resolved_memory(
        spec,
        facts.shape,
        ranks=ranks_of(spec),
        max_length=facts.max_length,
        trained=facts.trained,
        batches=batches,
    )


def _adapter(spec: ExperimentSpec) -> dict[str, Any]:
    adapter = spec.adapter.type != AdapterType.NONE
    rank = preset_of(spec).rank if adapter else None
    return {
        "learning_rate": _learning_rate(spec, adapter=adapter),
        "rank": rank,
        "alpha": (spec.adapter.alpha or 2.0 * rank) if rank else None,
    }


def _evaluation(spec: ExperimentSpec, facts: PreparedFacts) -> PlanStatus:
    """Return the plan of mode Evaluate: how the model lies on its devices, and no step."""
    if spec.compute.strategy in (Strategy.ZERO2, Strategy.ZERO3):
        raise ConfigurationError(
            f"spec.compute.strategy: {spec.compute.strategy.value} shards the state of an "
            "optimizer, but mode Evaluate has none; use FSDP or Auto",
            reason="DeadSetting",
        )
    batches = resolved_batches(spec, facts.shape, _compute_dtype(spec))
    per_device = preset_of(spec).per_device_batch_size
    status = PlanStatus(
        **_layout(spec, batches, memory=None),
        template=facts.template,
        gpus=spec.compute.nodes * spec.compute.gpus_per_node,
        max_length=facts.max_length,
        per_device_batch_size=per_device,
        global_batch_size=ranks_of(spec) * per_device,
        max_tokens_per_device=per_device * facts.max_length,
        steps_per_epoch=0,
        total_steps=0,
        warmup_steps=0,
        seed=facts.seed,
        epochs=0.0,
        learning_rate=0.0,
    )
    value = {
        "prepared": facts.prepared_digest,
        "model": facts.model_identity,
        "plan": status.model_dump(mode="json", by_alias=True, exclude={"digest"}),
    }
    digest = f"sha256:{hashlib.sha256(canonical_json(value)).hexdigest()}"
    return status.model_copy(update={"digest": digest})


def _layout(
    spec: ExperimentSpec, batches: Batches, memory: MemoryEstimate | None
) -> dict[str, Any]:
    """Return the fields that say how the model lies on its devices."""
    ranks, preset = ranks_of(spec), preset_of(spec)
    return {
        "ranks": ranks,
        "compute_dtype": batches.compute_dtype.value,
        "preset": preset.name,
        "quantization": preset.quantization.value,
        "batching": batches.batching.value,
        "attention": batches.attention.value,
        "strategy": _strategy(spec, ranks, memory),
        "checkpointed_layers": checkpointed_layers(spec, memory),
        "reshard_after_forward": memory is None or memory.settings.reshard,
        "memory": memory_status(memory, spec) if memory else None,
    }


def _strategy(spec: ExperimentSpec, ranks: int, memory: MemoryEstimate | None) -> str:
    """Return what the memory plan chose; without a plan a copy per rank, unless asked otherwise."""
    if memory is not None:
        return memory.settings.strategy
    if spec.compute.strategy == Strategy.AUTO:
        return Strategy.DDP.value if ranks > 1 else "SingleProcess"
    return spec.compute.strategy.value


def _steps(
    spec: ExperimentSpec, facts: PreparedFacts, batches: Batches, memory: MemoryEstimate | None
) -> Plan:
    training, preset, ranks = spec.training, preset_of(spec), ranks_of(spec)
    tokens, weights = training.global_batch_tokens or 0, facts.choices.weights
    samples = training.global_batch_size or (
        ranks * preset.per_device_batch_size * training.gradient_accumulation_steps
    )
    budget = training.max_tokens_per_device or preset.per_device_batch_size * facts.max_length
    augmentation = augmentation_of(
        spec, facts.seed, limit=facts.max_length, mask_token=facts.choices.mask_token
    )
    settings = PlanSettings(
        seed=facts.seed,
        budget=memory.settings.tokens if memory else budget,
        longest=facts.max_length if augmentation.insert else 0,
        samples=0 if tokens else samples,
        tokens=tokens,
        epochs=preset.epochs,
        max_steps=training.max_steps or 0,
        drop_last=training.drop_last_batch,
        averaging=training.loss_averaging,
        grain=ranks,
        padded=batches.batching == Batching.PADDED,
        changes=changes(spec, augmentation, weights),
    )
    cache = facts.choices.cache
    augmented = AugmentedSamples(cache, augmentation).of if cache else None
    mixture = Mixture(facts.choices.sources, weights) if weights else None
    return Plan(facts.lengths, facts.supervised, settings, augmented, mixture)


def _epochs(spec: ExperimentSpec, plan: Plan) -> float:
    if spec.training.max_steps:
        return round(spec.training.max_steps / plan.steps_per_epoch, 4)
    return preset_of(spec).epochs


def _warmup(spec: ExperimentSpec, total_steps: int) -> int:
    steps = spec.training.warmup_steps
    if steps is None:
        return min(total_steps, ceil(spec.training.warmup_ratio * total_steps))
    if steps >= total_steps:
        raise ConfigurationError(
            f"training.warmupSteps: {steps} is not below the {total_steps} steps of the run; lower "
            "it or train longer",
            reason="DeadSetting",
        )
    return steps


def _learning_rate(spec: ExperimentSpec, *, adapter: bool) -> float:
    if spec.training.learning_rate is not None:
        return spec.training.learning_rate
    return ADAPTER_RATE if adapter else FULL_RATE


def _compute_dtype(spec: ExperimentSpec) -> Dtype:
    if spec.training.compute_dtype != Dtype.AUTO:
        return spec.training.compute_dtype
    return Dtype.BFLOAT16 if spec.compute.gpus_per_node else Dtype.FLOAT32


def _identity(spec: ExperimentSpec, status: PlanStatus, plan: Plan, facts: PreparedFacts) -> str:
    """Return the digest of everything that decides where the weights go."""
    value = {
        "steps": plan.identity(facts.prepared_digest),
        "model": facts.model_identity,
        "adapter": spec.adapter.model_dump(mode="json", by_alias=True),
        "augmentation": spec.augmentation
        and spec.augmentation.model_dump(mode="json", by_alias=True),
        "training": spec.training.model_dump(mode="json", by_alias=True),
        "plan": status.model_dump(mode="json", by_alias=True, exclude={"digest", "memory"}),
    }
    return f"sha256:{hashlib.sha256(canonical_json(value)).hexdigest()}"
