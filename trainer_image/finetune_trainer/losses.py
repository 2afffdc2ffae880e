"""Weights of supervised rows, so that a step's loss does not depend on how the step is cut."""

from __future__ import annotations


def token_weight(supervised: int) -> float:
    """Return the weight of one row: 1 / supervised rows of the whole step, over all ranks.

    The number comes from the plan, not from a collective. A mean of micro-batch means would give
    the rows of short micro-batches more weight (transformers#34191).
    """
    return 1.0 / max(1, supervised)
