"""Bit-equal repeats: what torch is told, and what becomes of operations that cannot repeat."""

from __future__ import annotations

import os

import torch

from finetune_trainer.errors import ConfigurationError

CUBLAS_WORKSPACE = ":4096:8"
"""Two workspaces per stream would let cuBLAS choose between sums (its guide to reproducibility)."""


def repeat_exactly() -> None:
    """Let torch use deterministic operations only; before the first matrix product on a GPU."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = CUBLAS_WORKSPACE
    torch.use_deterministic_algorithms(mode=True)


def refused_operation(error: BaseException) -> ConfigurationError | None:
    """Return what an operation without a deterministic form ends as; None for other errors."""
    text = str(error)
    if not isinstance(error, RuntimeError) or "does not have a deterministic" not in text:
        return None
    operation = text.split(" does not", 1)[0][:80]
    return ConfigurationError(
        f"spec.training.deterministic: {operation} has no deterministic form on this device; set "
        "deterministic false, or another model.attention"
    )
