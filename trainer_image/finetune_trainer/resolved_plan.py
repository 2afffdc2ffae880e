"""Resolves what a spec leaves open from recorded facts; a restart uses the result, not the rule."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from finetune_api.experiment_status import PlanStatus
from finetune_api.finetune_experiment import ExperimentSpec
from finetune_api.training_settings import AdapterType, Dtype
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.plan import Plan, PlanSettings
from finetune_trainer.store import canonical_json

EPOCHS, PER_DEVICE_BATCH, RANK = 1.0, 2, 16
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


def ranks_of(spec: ExperimentSpec) -> int:
    """Return the number of ranks of an attempt."""
    compute = spec.compute
    return compute.nodes * (compute.gpus_per_node or compute.processes_per_node or 1)


def resolved_plan(spec: ExperimentSpec, facts: PreparedFacts) -> PlanStatus:
    """Return every number of the run; raise ConfigurationError for settings that cannot act."""
    ranks, per_device = ranks_of(spec), spec.training.per_device_batch_size or PER_DEVICE_BATCH
    plan = _steps(spec, facts, ranks, per_device)
    adapter = spec.adapter.type != AdapterType.NONE
    rank = (spec.adapter.rank or RANK) if adapter else None
    status = PlanStatus(
        template=facts.template,
        compute_dtype=_compute_dtype(spec),
        strategy="DDP" if ranks > 1 else "SingleProcess",
        gpus=spec.compute.nodes * spec.compute.gpus_per_node,
        ranks=ranks,
        max_length=facts.max_length,
        per_device_batch_size=per_device,
        global_batch_size=plan.settings.samples,
        max_tokens_per_device=plan.settings.budget,
        steps_per_epoch=plan.steps_per_epoch,
        total_steps=plan.total_steps,
        warmup_steps=_warmup(spec, plan.total_steps),
        seed=facts.seed,
        epochs=_epochs(spec, plan),
        learning_rate=_learning_rate(spec, adapter=adapter),
        rank=rank,
        alpha=(spec.adapter.alpha or 2.0 * rank) if rank else None,
    )
    return status.model_copy(update={"digest": _identity(spec, status, plan, facts)})


def _steps(spec: ExperimentSpec, facts: PreparedFacts, ranks: int, per_device: int) -> Plan:
    training = spec.training
    samples = training.global_batch_size or (
        ranks * per_device * training.gradient_accumulation_steps
    )
    settings = PlanSettings(
        seed=facts.seed,
        budget=training.max_tokens_per_device or per_device * facts.max_length,
        samples=samples,
        epochs=training.epochs or EPOCHS,
        max_steps=training.max_steps or 0,
        grain=ranks,
    )
    return Plan(facts.lengths, facts.supervised, settings)


def _epochs(spec: ExperimentSpec, plan: Plan) -> float:
    if spec.training.max_steps:
        return round(spec.training.max_steps / plan.steps_per_epoch, 4)
    return spec.training.epochs or EPOCHS


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


def _compute_dtype(spec: ExperimentSpec) -> str:
    if spec.training.compute_dtype != Dtype.AUTO:
        return spec.training.compute_dtype.value
    return (Dtype.BFLOAT16 if spec.compute.gpus_per_node else Dtype.FLOAT32).value


def _identity(spec: ExperimentSpec, status: PlanStatus, plan: Plan, facts: PreparedFacts) -> str:
    """Return the digest of everything that decides where the weights go."""
    value = {
        "steps": plan.identity(facts.prepared_digest),
        "model": facts.model_identity,
        "adapter": spec.adapter.model_dump(mode="json", by_alias=True),
        "training": spec.training.model_dump(mode="json", by_alias=True),
        "plan": status.model_dump(mode="json", by_alias=True, exclude={"digest"}),
    }
    return f"sha256:{hashlib.sha256(canonical_json(value)).hexdigest()}"
