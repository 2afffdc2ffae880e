"""Whether training ends early: a pure function of the evaluations, which checkpoints carry."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from finetune_trainer.objective import Objective


@dataclass(frozen=True)
class EarlyStopping:
    """Ends a run after `patience` points in a row without an improvement above `threshold`."""

    objective: Objective | None
    patience: int
    threshold: float = 0.0

    def due(self, evaluations: Iterable[Mapping[str, float]]) -> bool:
        """Tell whether the evaluations so far, oldest first, ask for an end.

        Counting them anew needs no counter of its own: a restart cannot lose it.
        """
        if self.objective is None or not self.patience:
            return False
        best, without = None, 0
        for one in evaluations:
            value = one.get(self.objective.name, math.nan)
            if self.objective.improves(value, best, self.threshold):
                best, without = value, 0
            else:
                without += 1
        return without >= self.patience
