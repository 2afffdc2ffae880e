"""Refuses in preparation a way of holding frozen weights that a run could not compute with."""

from __future__ import annotations

from finetune_api.finetune_experiment import ExperimentSpec
from finetune_api.model_settings import Dtype, Quantization
from finetune_api.presets import preset_of
from finetune_trainer.errors import ConfigurationError


def check_weights(spec: ExperimentSpec, strategy: str, compute: Dtype) -> None:
    """Raise ConfigurationError for types and quantisation that do not go with the resolved rest.

    A preset may choose the quantisation, and Auto the types, so the schema cannot see these.
    """
    held, kind = spec.model.dtype, preset_of(spec).quantization
    if held not in (Dtype.AUTO, Dtype.FLOAT32, compute):
        raise ConfigurationError(
            f"spec.model.dtype: weights held in {held.value} would be computed with in that type, "
            f"not in {compute.value} as training.computeDtype says; set Auto or Float32"
        )
    if kind is not Quantization.NONE and strategy == "ZeRO3":
        raise ConfigurationError(
            f"spec.model.quantization: {kind.value} weights cannot be cut by ZeRO3; use strategy "
            "FSDP, or quantization None"
        )
    if kind is Quantization.INT8 and strategy == "FSDP":
        raise ConfigurationError(
            "spec.model.quantization: Int8 weights cannot be cut by FSDP; use NF4, or strategy DDP"
        )
