"""Floating-point operations that a step needs, for dealing micro-batches out and for MFU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from finetune_trainer.parameter_match import BACKBONE, EMBEDDINGS, ParameterMatch

FROZEN, TRAINED = 4, 6
"""Operations per weight and token: 2 forward, 2 for the input's gradient, 2 for the weight's."""

DENSE_PEAKS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H20": 148e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A6000": 155e12,
    "RTX 4090": 165e12,
}
"""Dense bfloat16 operations per second by the vendor's datasheets; the first match counts."""


@dataclass(frozen=True)
class ModelFlops:
    """Operations of forward and backward; recomputation is no need of the model and left out."""

    per_token: int
    per_row: int
    """per_row is the head's share, needed by supervised rows only"""
    per_square: int
    """per_square times the squared length of each segment is causal attention"""

    def of(self, tokens: int, rows: int, squares: int) -> int:
        """Return the operations of so many tokens, supervised rows and squared lengths."""
        return self.per_token * tokens + self.per_row * rows + self.per_square * squares


def model_flops(model: nn.Module) -> ModelFlops:
    """Count the weights that tokens pass through.

    Attention is 6 x layers x width x length²: two products of 2 x width x length², halved by
    causality, tripled by backward (arXiv:2204.02311, appendix B). Experts count by the share of
    them that a token visits.
    """
    match, per_token, per_row = ParameterMatch(model), 0, 0
    causal: Any = model
    shape = causal.config.get_text_config()
    for name, one in model.named_parameters():
        kind, weights = match.kind(name), _weights(one, shape)
        operations = (TRAINED if one.requires_grad else FROZEN) * weights
        if kind == BACKBONE:
            per_token += operations
        elif kind != EMBEDDINGS:
            per_row += operations
    if shape.tie_word_embeddings:
        table = causal.get_input_embeddings().weight
        per_row += (TRAINED if table.requires_grad else FROZEN) * _weights(table, shape)
    heads = shape.num_attention_heads
    width = heads * (getattr(shape, "head_dim", None) or shape.hidden_size // heads)
    return ModelFlops(per_token, per_row, TRAINED * shape.num_hidden_layers * width)


def peak_flops(device: torch.device) -> float | None:
    """Return the datasheet's dense bfloat16 operations per second; None where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in DENSE_PEAKS.items() if part in name), None)


def _weights(one: Any, shape: Any) -> int:
    """Return a matrix's number of weights as they are multiplied; vectors cost next to nothing."""
    state = getattr(one, "quant_state", None)  # bitsandbytes packs two weights into a byte
    dimensions = tuple(state.shape if state is not None else getattr(one, "ds_shape", one.shape))
    if len(dimensions) < 2:
        return 0
    weights = 1
    for size in dimensions:
        weights *= int(size)
    experts = getattr(shape, "num_experts", None) or getattr(shape, "num_local_experts", None)
    if len(dimensions) == 3 and experts == dimensions[0]:
        weights = weights * int(shape.num_experts_per_tok) // int(experts)
    return weights
