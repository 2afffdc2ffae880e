"""The values of presets; version 1. A value that the spec gives always wins."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_api.finetune_experiment import ExperimentSpec
from finetune_api.model_settings import AdapterType, Quantization
from finetune_api.training_settings import Mode, Preset

VERSION = 1


@dataclass(frozen=True)
class PresetValues:
    """Values of the fields that were left open, or what the spec says."""

    epochs: float = 1.0
    per_device_batch_size: int = 2
    rank: int = 16
    quantization: Quantization = Quantization.NONE
    recompute_all: bool = False
    """recompute_all layers under gradientCheckpointing Auto."""
    sample_fraction: float = 1.0

    name: str = ""


_VALUES = {
    Preset.BALANCED: PresetValues(),
    Preset.QUICK_LOOK: PresetValues(rank=8, sample_fraction=0.1),
    Preset.QUALITY: PresetValues(epochs=3.0, rank=64),
    Preset.LOW_MEMORY: PresetValues(
        per_device_batch_size=1,
        rank=8,
        quantization=Quantization.NF4,
        recompute_all=True,
    ),
}


def preset_of(spec: ExperimentSpec) -> PresetValues:
    """Return what holds for the fields of a spec that a preset may fill."""
    values, training, dataset = _VALUES[spec.preset], spec.training, spec.dataset
    quantized = values.quantization
    if spec.adapter.type == AdapterType.NONE or spec.mode == Mode.EVALUATE:
        # Only a frozen base can be quantised.
        quantized = Quantization.NONE
    return PresetValues(
        epochs=training.epochs or values.epochs,
        per_device_batch_size=training.per_device_batch_size or values.per_device_batch_size,
        rank=spec.adapter.rank or values.rank,
        quantization=spec.model.quantization or quantized,
        recompute_all=values.recompute_all,
        sample_fraction=1.0
        if dataset.sample_rows
        else dataset.sample_fraction or values.sample_fraction,
        name=f"{spec.preset.value} {VERSION}",
    )
