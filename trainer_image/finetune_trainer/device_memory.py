"""The memory plan on the device at hand: what a run should take, and what fits when it does not."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from finetune_api.memory_choice import MemoryQuestion, alternatives, estimate_at
from finetune_api.memory_plan import MemoryEstimate
from finetune_api.model_settings import AdapterType, Attention
from finetune_api.model_shape import ModelShape, model_shape
from finetune_api.run_config import TrainingConfig
from finetune_trainer.activation_memory import peak_bytes
from finetune_trainer.errors import GpuOutOfMemoryError


def device_estimate(
    run: TrainingConfig, folder: Path, device: torch.device
) -> MemoryEstimate | None:
    """Return what a run should take, with the layers it recomputes; None for unknown shapes.

    Preparation leaves these layers to the device where nothing told it the memory of a GPU.
    """
    question = _question(run, folder, device)
    if question is None:
        return None
    plan = run.plan
    layers = plan.checkpointed_layers if device.type == "cuda" else plan.checkpointed_layers or 0
    return estimate_at(question, plan.strategy, plan.max_tokens_per_device, layers)


def out_of_memory(run: TrainingConfig, folder: Path, device: torch.device) -> GpuOutOfMemoryError:
    """Return the error of a device that is too small: estimate, peak and what would fit."""
    question = _question(run, folder, device)
    estimate = device_estimate(run, folder, device)
    found = alternatives(question) if question is not None and question.available else []
    remedy = "; ".join(f"{one.changes} ({one.estimated_bytes / 1e9:.1f} GB)" for one in found)
    planned = f"{estimate.total / 1e9:.1f} GB" if estimate is not None else "unknown"
    remedy = remedy or "lower training.maxTokensPerDevice or tokenizer.maxLength"
    return GpuOutOfMemoryError(
        f"the GPU's memory is exhausted: {planned} planned, {peak_bytes(device) / 1e9:.1f} GB "
        f"allocated at the peak; these fit: {remedy}",
        remedy=remedy,
    )


def _question(run: TrainingConfig, folder: Path, device: torch.device) -> MemoryQuestion | None:
    shape = model_shape(json.loads((folder / "config.json").read_bytes()), run.model.parameters)
    if shape is None:
        return None
    memory = None
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    return MemoryQuestion(
        spec=run.spec,
        shape=shape,
        ranks=run.ranks,
        max_length=run.plan.max_length,
        compute_dtype=run.plan.compute_dtype,
        trained=run.model.trainable_parameters or _trained(run, shape),
        eager=run.plan.attention == Attention.EAGER,
        available=memory,
    )


def _trained(run: TrainingConfig, shape: ModelShape) -> int:
    if run.spec.adapter.type == AdapterType.NONE:
        return shape.linear_parameters + shape.embedding_parameters
    return shape.adapter_parameters(run.plan.rank or 1)
