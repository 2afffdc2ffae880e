"""Recomputes layers instead of keeping their activations, and measures what a step really takes."""

from __future__ import annotations

import logging
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from finetune_trainer.data import MicroBatch
from finetune_trainer.engine import Engine
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.progress import Board

log = logging.getLogger("finetune_trainer")

NOTABLE_DEVIATION = 0.15


def checkpoint_layers(model: nn.Module, layers: int, *, own_dropout: bool) -> None:
    """Recompute the first `layers` decoder layers in backward, by each layer's own flag.

    Random state is kept for the recomputation only where the model draws dropout of its own: the
    adapters' is counted. Raises ConfigurationError where the architecture cannot recompute.
    """
    if not layers:
        return
    causal: Any = model
    causal = causal.get_base_model() if hasattr(causal, "peft_config") else causal
    keywords = {"use_reentrant": False, "preserve_rng_state": own_dropout}
    # The name before transformers 5.22 or so warns in later ones, and the later one was not there.
    enable = getattr(causal, "activation_checkpointing_enable", None)
    try:
        (enable or causal.gradient_checkpointing_enable)(keywords)
    except ValueError as error:
        raise ConfigurationError(
            f"spec.training.gradientCheckpointing: {type(causal).__name__} cannot recompute its "
            "layers; set Never"
        ) from error
    # Recomputation that is not re-entrant needs no gradient of the embeddings.
    causal.disable_input_require_grads()
    for number, layer in enumerate(decoder_layers(causal)):
        layer.gradient_checkpointing = number < layers


def decoder_layers(model: nn.Module) -> list[Any]:
    """Return the repeated layers that can be recomputed, the first one first."""
    return [one for one in model.modules() if isinstance(one, GradientCheckpointingLayer)]


def longest_samples(lengths: Sequence[int], budget: int, *, padded: bool) -> list[int]:
    """Return the longest samples that fill one micro-batch: its memory is the run's peak."""
    chosen: list[int] = []
    tokens = 0
    for sample in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        tokens += lengths[chosen[0]] if padded and chosen else lengths[sample]
        if tokens > budget:
            break
        chosen.append(sample)
    return chosen


@dataclass(frozen=True)
class MemoryPeak:
    """What one update took against what was planned; bytes of one GPU, or of a CPU process."""

    observed: int
    planned: int | None
    on_gpu: bool

    @property
    def deviation(self) -> float | None:
        """Observed over planned, less one; None where nothing was planned for this device."""
        if not self.on_gpu or not self.planned:
            return None
        return self.observed / self.planned - 1


def probed_memory(engine: Engine, batch: MicroBatch, planned: int | None) -> MemoryPeak:
    """Run one forward and backward and drop its gradients; a collective call.

    `planned` is what the allocator should hand out at the peak. Moments exist already.
    """
    on_gpu = engine.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(engine.device)
    try:
        engine.backward(engine.loss_sum(batch, last=True))
    finally:
        engine.discard()
    return MemoryPeak(peak_bytes(engine.device), planned, on_gpu)


def show_peak(peak: MemoryPeak, board: Board | None) -> None:
    """Put the observed peak beside the planned one; a notable difference is logged as a warning."""
    off = peak.deviation
    if off is not None and abs(off) > NOTABLE_DEVIATION:
        log.warning(
            "the longest samples take %.1f GB, %.0f %% %s than planned",
            peak.observed / 1e9,
            abs(off) * 100,
            "more" if off > 0 else "less",
        )
    if board is not None:
        board.values(memory_planned_bytes=peak.planned, memory_peak_bytes=peak.observed)
        for kind, size in (("planned", peak.planned), ("probed", peak.observed)):
            if size is not None:
                board.gauge("train_memory_bytes", size, kind=kind)


def peak_bytes(device: torch.device) -> int:
    """Return the most memory that was in use: allocated on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
