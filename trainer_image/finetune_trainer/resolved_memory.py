"""Resolves what memory and the architecture decide: batching, attention, budget, recomputation.

Refuses in preparation what could only fail on the GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

from finetune_api.experiment_plan import MemoryStatus, PlanStatus, Verdict
from finetune_api.finetune_experiment import ExperimentSpec
from finetune_api.gpu_memory import known_gpu_memory
from finetune_api.memory_choice import Alternative, MemoryQuestion, alternatives, memory_choice
from finetune_api.memory_plan import MemoryEstimate
from finetune_api.model_settings import AdapterType, Attention, Dtype, InitialWeights
from finetune_api.model_shape import ModelShape
from finetune_api.presets import preset_of
from finetune_api.training_settings import Batching, Compile, GradientCheckpointing
from finetune_trainer.byte_size import byte_size
from finetune_trainer.errors import ConfigurationError

KERNELS = (Attention.VARLEN, Attention.FLASH_ATTENTION_2, Attention.FLASH_ATTENTION_3)
LARGEST_HEAD = 256
SHARDED = ("FSDP", "ZeRO2", "ZeRO3")
SCORES_CHANGED = ("its attention caps scores", "its attention has sinks")


@dataclass(frozen=True)
class Batches:
    """How samples share rows, which attention serves them, and why if it is not as usual."""

    batching: Batching
    attention: Attention
    compute_dtype: Dtype
    reason: str = ""


def resolved_batches(
    spec: ExperimentSpec, shape: ModelShape | None, compute_dtype: Dtype
) -> Batches:
    """Return batching and attention; raise ConfigurationError for what cannot work together."""
    asked, wanted = spec.training.batching, spec.model.attention
    reason = shape.unpackable if shape else ""
    padded = asked == Batching.PADDED or wanted == Attention.EAGER or bool(reason)
    if padded and asked == Batching.PACKED:
        why = reason or "attention Eager knows no segments"
        raise _refused("training.batching", f"Packed cannot serve this model ({why})", "set Auto")
    if wanted in KERNELS:
        _check_kernel(spec, shape, compute_dtype, padded=padded)
    if reason in SCORES_CHANGED and wanted == Attention.SDPA:
        raise _refused("model.attention", f"SDPA cannot serve this model ({reason})", "set Auto")
    batching = Batching.PADDED if padded else Batching.PACKED
    if wanted == Attention.AUTO:
        wanted = _automatic(spec, shape, compute_dtype, reason, padded=padded)
    return Batches(batching, wanted, compute_dtype, reason)


def resolved_memory(
    spec: ExperimentSpec,
    shape: ModelShape | None,
    *,
    ranks: int,
    max_length: int,
    trained: int | None,
    batches: Batches,
) -> MemoryEstimate | None:
    """Return the estimate of the chosen settings; None where the model does not tell its shape.

    Raises ConfigurationError (MemoryPlanExceeded) with the terms and up to three settings that fit.
    """
    given = known_gpu_memory(spec.compute)
    if shape is None:
        if spec.compute.gpu_memory is not None:
            raise _refused(
                "compute.gpuMemory",
                "the model's configuration tells neither width nor depth to plan with",
                "remove it",
            )
        return None
    question = MemoryQuestion(
        spec=spec,
        shape=shape,
        ranks=ranks,
        max_length=max_length,
        compute_dtype=batches.compute_dtype,
        trained=trained or _trained(spec, shape),
        eager=batches.attention == Attention.EAGER,
        available=byte_size(given) if given else None,
    )
    chosen = memory_choice(question)
    if question.available is not None and not chosen.fits(question.available):
        raise _does_not_fit(chosen, given or "", alternatives(question))
    return chosen


def memory_status(estimate: MemoryEstimate, spec: ExperimentSpec) -> MemoryStatus:
    """Return the estimate as status shows it."""
    given = known_gpu_memory(spec.compute)
    fits: Verdict = "FitsWithRecomputation" if estimate.settings.checkpointed else "Fits"
    return MemoryStatus(
        estimated_bytes=estimate.total,
        available_bytes=byte_size(given) if given else None,
        verdict=fits if given else "NotJudged",
        terms=dict(estimate.terms),
    )


def checkpointed_layers(spec: ExperimentSpec, estimate: MemoryEstimate | None) -> int | None:
    """Return the layers to recompute, or None where only the device can tell."""
    asked = spec.training.gradient_checkpointing
    on_device = spec.compute.gpus_per_node > 0 and known_gpu_memory(spec.compute) is None
    if estimate is None or (
        on_device and asked == GradientCheckpointing.AUTO and not preset_of(spec).recompute_all
    ):
        return None
    return estimate.settings.checkpointed


def padding_notice(spec: ExperimentSpec, shape: ModelShape | None, plan: PlanStatus) -> str:
    """Return what to say where batching Auto pads rows, else nothing."""
    if plan.batching != Batching.PADDED or spec.training.batching == Batching.PADDED:
        return ""
    why = (shape.unpackable if shape else "") or "model.attention is Eager"
    return f"samples get padded rows of their own instead of sharing one: {why}"


def check_model(spec: ExperimentSpec) -> None:
    """Refuse adapters on weights that exist nowhere, and to compile what draws random numbers.

    Recomputed graphs draw others (peft#3020).
    """
    random = spec.model.initial_weights == InitialWeights.RANDOM
    if random and spec.adapter.type != AdapterType.NONE:
        problem = "an adapter on Random weights could never be merged or served"
        raise _refused("model.initialWeights", problem, "set adapter.type None")
    drawn = spec.adapter.dropout or spec.model.intermediate_dropout
    if spec.training.compile == Compile.ALWAYS and drawn:
        raise _refused("training.compile", "Always does not work with dropout", "set Auto or Never")


def check_compile(spec: ExperimentSpec, strategy: str) -> None:
    """Refuse to compile layers whose weights come and go: it has not been proven right."""
    if spec.training.compile == Compile.ALWAYS and strategy in SHARDED:
        problem = f"Always is not offered with strategy {strategy}"
        raise _refused("training.compile", problem, "set Never or compute.strategy DDP")


def _check_kernel(
    spec: ExperimentSpec, shape: ModelShape | None, compute_dtype: Dtype, *, padded: bool
) -> None:
    name, field = spec.model.attention.value, "model.attention"
    if not spec.compute.gpus_per_node:
        raise _refused(field, f"{name} needs a GPU, gpusPerNode is 0", "set Auto or SDPA")
    if compute_dtype == Dtype.FLOAT32:
        raise _refused(field, f"{name} computes in 16 bits, computeDtype is Float32", "set Auto")
    if padded:
        why = (shape.unpackable if shape else "") or "training.batching is Padded"
        raise _refused(field, f"{name} serves packed rows only ({why})", "set Auto")
    if shape and shape.head_size > LARGEST_HEAD:
        text = f"{name} serves heads up to {LARGEST_HEAD}, this model's are {shape.head_size}"
        raise _refused(field, text, "set Auto")


def _automatic(
    spec: ExperimentSpec, shape: ModelShape | None, dtype: Dtype, reason: str, *, padded: bool
) -> Attention:
    if reason in SCORES_CHANGED:
        return Attention.EAGER
    large = shape is not None and shape.head_size > LARGEST_HEAD
    if padded or not spec.compute.gpus_per_node or dtype == Dtype.FLOAT32 or large:
        return Attention.SDPA
    return Attention.VARLEN


def _trained(spec: ExperimentSpec, shape: ModelShape) -> int:
    if spec.adapter.type == AdapterType.NONE:
        return shape.known_parameters or shape.linear_parameters + shape.embedding_parameters
    return shape.adapter_parameters(preset_of(spec).rank)


def _does_not_fit(
    estimate: MemoryEstimate, given: str, found: list[Alternative]
) -> ConfigurationError:
    terms = ", ".join(f"{name} {_gb(size)}" for name, size in estimate.terms.items())
    remedy = "; ".join(f"{one.changes} ({_gb(one.estimated_bytes)})" for one in found)
    return ConfigurationError(
        f"spec.compute.gpuMemory: the run needs {_gb(estimate.total)} per GPU ({terms}, reserve) "
        f"and may fill 92 % of {given}; these fit: {remedy or 'none; use a larger GPU'}",
        remedy=remedy,
        reason="MemoryPlanExceeded",
    )


def _refused(field: str, problem: str, remedy: str) -> ConfigurationError:
    return ConfigurationError(f"spec.{field}: {problem}; {remedy}", reason="DeadSetting")


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
