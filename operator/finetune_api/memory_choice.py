"""Chooses strategy, token budget and recomputed layers so that a run fits its GPUs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from finetune_api.finetune_experiment import ExperimentSpec
from finetune_api.memory_plan import (
    MemoryEstimate,
    MemorySettings,
    least_recomputed,
    memory_estimate,
)
from finetune_api.model_settings import AdapterType, Dtype, Quantization
from finetune_api.model_shape import ModelShape
from finetune_api.presets import PresetValues, preset_of
from finetune_api.strategy_settings import Offload, Resharding, Strategy
from finetune_api.training_settings import GradientCheckpointing, OptimizerName

ROOMY_BUDGET = 8192
"""Tokens of a micro-batch from which kernels and dequantisation are well used."""
ALTERNATIVES = 3
MOMENT_BYTES = {
    OptimizerName.ADAMW_8BIT: 2.0,
    # Pages leave the GPU when memory runs short.
    OptimizerName.PAGED_ADAMW_32BIT: 0.0,
    OptimizerName.PAGED_ADAMW_8BIT: 0.0,
    OptimizerName.SGD: 4.0,
}


@dataclass(frozen=True)
class MemoryQuestion:
    """A run whose memory is to be planned."""

    spec: ExperimentSpec
    shape: ModelShape
    ranks: int
    max_length: int
    compute_dtype: str
    trained: int
    """trained parameters."""
    eager: bool = False
    available: int | None = None
    """available bytes per GPU; None = not known, then nothing is refused."""


@dataclass(frozen=True)
class Alternative:
    """Settings that fit, and their peak."""

    changes: str
    estimated_bytes: int


def memory_choice(question: MemoryQuestion) -> MemoryEstimate:
    """Return the estimate of what the run will do; one that does not fit where nothing does.

    Order of preference: as given without recomputation, with the largest token budget; then with
    as few recomputed layers as fit; then the next strategy that `compute.strategy` Auto allows.
    """
    options = list(_sharings(question, _settings(question)))
    if question.available is None:
        return _at(question, options[0], _budgets(question)[0])
    for settings in options:
        if (found := _fitting(question, settings, question.available)) is not None:
            return found
    return _at(question, options[-1], _budgets(question)[-1], most=True)


def estimate_at(
    question: MemoryQuestion, strategy: str, tokens: int, layers: int | None
) -> MemoryEstimate:
    """Return the estimate of a strategy and budget that stand.

    Without `layers` as few are recomputed as fit the available memory; all if nothing fits.
    """
    options = [one for one in _sharings(question, _settings(question)) if one.strategy == strategy]
    settings = replace(options[-1] if options else _settings(question), tokens=tokens)
    if layers is None and question.available is not None:
        found = least_recomputed(question.shape, settings, question.available)
        if found is not None:
            return found
        layers = question.shape.layers
    return memory_estimate(question.shape, replace(settings, checkpointed=layers or 0))


def alternatives(question: MemoryQuestion) -> list[Alternative]:
    """Return up to three settings that fit, the smallest change first."""
    found: list[Alternative] = []
    for changes, changed in _changes(question):
        if any(one.changes.split()[0] == changes.split()[0] for one in found):
            continue  # a smaller change of the same field fits already
        available, settings = question.available or 0, _settings(changed)
        for option in _sharings(changed, settings):
            one = _fitting(changed, option, available)
            if one is not None:
                text = changes.format(tokens=one.settings.tokens)
                found.append(Alternative(text, one.total))
                break
        if len(found) == ALTERNATIVES:
            break
    return found


def _fitting(
    question: MemoryQuestion, settings: MemorySettings, available: int
) -> MemoryEstimate | None:
    """Return what fits: without recomputation if any budget does; NF4 prefers large budgets."""
    budgets, shape = _budgets(question), question.shape
    checkpointing = question.spec.training.gradient_checkpointing
    always = checkpointing == GradientCheckpointing.ALWAYS or (
        checkpointing == GradientCheckpointing.AUTO and preset_of(question.spec).recompute_all
    )
    kept = [memory_estimate(shape, replace(settings, tokens=tokens)) for tokens in budgets]
    plain = next((one for one in kept if one.fits(available)), None)
    if checkpointing == GradientCheckpointing.NEVER:
        return plain
    if plain is not None and not always and settings.quantization == "None":
        return plain
    recomputed = [
        least_recomputed(shape, replace(settings, tokens=tokens), available)
        if not always
        else _at(question, settings, tokens)
        for tokens in budgets
    ]
    return next((one for one in recomputed if one is not None and one.fits(available)), None)


def _at(
    question: MemoryQuestion, settings: MemorySettings, tokens: int, *, most: bool = False
) -> MemoryEstimate:
    checkpointing = question.spec.training.gradient_checkpointing
    recomputed = most or preset_of(question.spec).recompute_all
    layers = {
        GradientCheckpointing.ALWAYS: question.shape.layers,
        GradientCheckpointing.NEVER: 0,
        GradientCheckpointing.AUTO: question.shape.layers if recomputed else 0,
    }[checkpointing]
    return memory_estimate(question.shape, replace(settings, tokens=tokens, checkpointed=layers))


def _budgets(question: MemoryQuestion) -> Sequence[int]:
    """Return token budgets, the preferred first; none changes which samples form a step."""
    training, longest = question.spec.training, question.max_length
    if training.max_tokens_per_device:
        return (training.max_tokens_per_device,)
    per_device = preset_of(question.spec).per_device_batch_size
    budget = per_device * longest
    if question.available is not None and not training.per_device_batch_size:
        samples = training.global_batch_size or per_device * question.ranks
        samples *= training.gradient_accumulation_steps
        budget = max(budget, min(ROOMY_BUDGET, -(-samples // question.ranks) * longest))
    budgets = [budget]
    while question.available is not None and budgets[-1] // 2 > longest:
        budgets.append(budgets[-1] // 2)
    return (*budgets, longest) if budgets[-1] > longest and question.available else budgets


def _settings(question: MemoryQuestion) -> MemorySettings:
    spec, preset = question.spec, preset_of(question.spec)
    value = 4 if question.compute_dtype == Dtype.FLOAT32 else 2
    held = question.compute_dtype if spec.model.dtype == Dtype.AUTO else spec.model.dtype
    deepspeed = spec.deepspeed
    return MemorySettings(
        tokens=question.max_length,
        longest=question.max_length,
        trained=question.trained,
        rank=0 if spec.adapter.type == AdapterType.NONE else preset.rank,
        value_bytes=value,
        weight_bytes=4 if held == Dtype.FLOAT32 else 2,
        quantization=preset.quantization.value,
        double_quantization=spec.model.double_quantization,
        moment_bytes=_moment_bytes(spec),
        eager=question.eager,
        lean=_lean(spec, preset),
        optimizer_offloaded=deepspeed is not None and deepspeed.offload_optimizer == Offload.CPU,
        parameters_offloaded=(deepspeed is not None and deepspeed.offload_parameters == Offload.CPU)
        or (spec.fsdp is not None and spec.fsdp.offload == Offload.CPU),
    )


def _moment_bytes(spec: ExperimentSpec) -> float:
    training = spec.training
    if training.optimizer == OptimizerName.RMSPROP:
        return 4.0 if training.momentum == 0 else 8.0
    if training.optimizer == OptimizerName.SGD and training.momentum == 0:
        return 0.0
    return MOMENT_BYTES.get(training.optimizer, 8.0)


def _lean(spec: ExperimentSpec, preset: PresetValues) -> bool:
    return spec.adapter.type != AdapterType.DORA and preset.quantization != Quantization.INT8


def _sharings(question: MemoryQuestion, settings: MemorySettings) -> Iterator[MemorySettings]:
    """Yield the ways to share state that the spec allows, the fastest first."""
    strategy, ranks = question.spec.compute.strategy, question.ranks
    fsdp = question.spec.fsdp
    if strategy in (Strategy.AUTO, Strategy.DDP):
        yield replace(settings, strategy="DDP" if ranks > 1 else "SingleProcess")
    if strategy == Strategy.FSDP or (strategy == Strategy.AUTO and ranks > 1):
        shards = (fsdp.shard_group_size if fsdp else None) or ranks
        again = fsdp.reshard_after_forward if fsdp else Resharding.AUTO
        for reshard in (False, True):
            if again == Resharding.AUTO or (again == Resharding.ALWAYS) == reshard:
                yield replace(settings, strategy="FSDP", shards=shards, reshard=reshard)
    if strategy in (Strategy.ZERO2, Strategy.ZERO3):
        yield replace(settings, strategy=strategy.value, shards=ranks)


def _changes(question: MemoryQuestion) -> Iterator[tuple[str, MemoryQuestion]]:
    """Yield changes of the spec with their names, those that cost least first."""
    free: dict[str, object] = {"max_tokens_per_device": None, "per_device_batch_size": None}
    if question.spec.training.gradient_checkpointing == GradientCheckpointing.NEVER:
        free["gradient_checkpointing"] = GradientCheckpointing.AUTO
    smaller = _changed(question, training=free)
    yield "training.maxTokensPerDevice {tokens}, gradientCheckpointing Auto", smaller
    if smaller.ranks > 1 and smaller.spec.compute.strategy not in ("Auto", "FSDP", "ZeRO3"):
        yield "compute.strategy FSDP", _changed(smaller, compute={"strategy": Strategy.FSDP})
    full = smaller.spec.adapter.type == AdapterType.NONE
    if full:
        light: dict[str, object] = {"optimizer": OptimizerName.PAGED_ADAMW_8BIT}
        yield "training.optimizer PagedAdamW8bit", _changed(smaller, training=light)
        lora = replace(
            _changed(smaller, adapter={"type": AdapterType.LORA}),
            trained=smaller.shape.adapter_parameters(16),
        )
        yield "adapter.type LoRA", lora
    elif preset_of(smaller.spec).quantization == Quantization.NONE:
        yield "model.quantization NF4", _changed(smaller, model={"quantization": Quantization.NF4})
    for length in (smaller.max_length // 2, smaller.max_length // 4):
        if length >= 64:
            yield f"tokenizer.maxLength {length}", replace(smaller, max_length=length)
    for factor in (2, 4, 8):
        more = _changed(smaller, compute={"strategy": Strategy.FSDP})
        ranks = factor * smaller.ranks
        yield f"compute.strategy FSDP on {ranks} GPUs", replace(more, ranks=ranks)


def _changed(question: MemoryQuestion, **blocks: dict[str, object]) -> MemoryQuestion:
    updated = {
        name: getattr(question.spec, name).model_copy(update=values)
        for name, values in blocks.items()
    }
    return replace(question, spec=question.spec.model_copy(update=updated))
