"""Which attention function a run's model is loaded with."""

from __future__ import annotations

from typing import Any

import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from finetune_api.model_settings import Attention
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.segments import (
    SEGMENT_LOOP,
    SEGMENTS,
    use_flash_attention_3,
    varlen_serves,
)

KERNELS = (Attention.VARLEN, Attention.FLASH_ATTENTION_2, Attention.FLASH_ATTENTION_3)
"""FlashAttention2 is the kernel that torch holds, and so what Varlen runs."""


def packed_attention(
    planned: Attention, asked: Attention, dtype: torch.dtype, device: torch.device
) -> str:
    """Return the name of the function for packed rows.

    Raises ConfigurationError where a kernel was asked for that this device does not have; one that
    was only planned gives way to the loop over segments.
    """
    if planned not in KERNELS:
        return SEGMENT_LOOP
    if varlen_serves(device, dtype, 1):
        if planned == Attention.FLASH_ATTENTION_3:
            use_flash_attention_3()
        return SEGMENTS
    if asked in KERNELS:
        raise ConfigurationError(
            f"spec.model.attention: {asked.value} does not run on this device in {dtype}; set Auto "
            "or SDPA"
        )
    return SEGMENT_LOOP


def padded_attention(config: Any, planned: Attention) -> str:
    """Return the library's function for padded rows: eager where its own sdpa refuses the model."""
    kind = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    supported = kind is not None and kind._supports_sdpa
    return "sdpa" if supported and planned != Attention.EAGER else "eager"


def takes_segments(config: Any) -> bool:
    """Tell whether the architecture takes attention from outside at all."""
    kind = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return kind is not None and bool(kind._supports_attention_backend)
