"""Weights of supervised rows, so that a step's loss does not depend on how the step is cut."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_api.training_settings import LossAveraging


@dataclass(frozen=True)
class RowWeights:
    """What a row counts in the loss of one step, from numbers of the plan, not from a collective.

    A mean of micro-batch means would give the rows of short micro-batches more weight
    (transformers#34191).
    """

    averaging: LossAveraging
    supervised: int
    """supervised rows of the whole step, over all ranks"""
    samples: int
    """samples of the whole step, over all ranks"""
    tokens: int = 0
    """tokens of the whole step, over all ranks"""

    def of(self, rows: int) -> float:
        """Return the weight of each row of a sample with `rows` supervised rows.

        Tokens: 1 / rows of the step. Samples: 1 / (samples of the step x rows of the sample).
        """
        if self.averaging is LossAveraging.SAMPLES:
            return 1.0 / (self.samples * max(1, rows))
        return 1.0 / max(1, self.supervised)

    def share(self, tokens: int) -> float:
        """Return what a loss over all tokens of a micro-batch counts in that of the step."""
        return tokens / max(1, self.tokens)


ONE_EACH = RowWeights(LossAveraging.TOKENS, supervised=1, samples=1)
"""Weight 1 for every row, for sums."""
