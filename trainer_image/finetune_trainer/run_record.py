"""What a run has seen so far; it travels in every checkpoint, so that reports span attempts."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from finetune_api.run_outcome import Best, CheckpointRef

OBJECTIVE = "loss"
MOST_POINTS = 2000


@dataclass
class RunRecord:
    """Counters, loss curve, evaluations and the base model's answers."""

    step: int = 0
    tokens: int = 0
    supervised: int = 0
    samples: int = 0
    history: list[list[float]] = field(default_factory=list)
    """history holds points [steps done, mean loss, rate, norm]."""
    pending: list[float] = field(default_factory=list)
    """pending are the losses of steps since the last point."""
    evaluations: list[dict[str, float]] = field(default_factory=list)
    base_answers: dict[str, list[int]] = field(default_factory=dict)
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    """checkpoints are those verified when this record was saved."""

    def add_values(self, done: int, loss: float, *, rate: float, norm: float, point: bool) -> None:
        """Take a step's values in; `point` closes an interval of the loss curve."""
        self.pending.append(loss)
        if not point:
            return
        mean = math.fsum(self.pending) / len(self.pending)
        self.history.append([done, mean, rate, norm])
        self.pending = []
        if len(self.history) > MOST_POINTS:
            self.history = self.history[1::2]

    def add_evaluation(self, done: int, values: dict[str, float], rows: int) -> None:
        """Take an evaluation in."""
        self.evaluations.append({"step": done, "rows": rows, **values})

    def evaluation(self, done: int) -> dict[str, float] | None:
        """Return the evaluation after `done` steps, if there was one."""
        return next((one for one in self.evaluations if one["step"] == done), None)

    def ranking(self) -> list[int]:
        """Return evaluated steps after the start, best first; a value not finite is never best."""
        scored = [
            (one[OBJECTIVE], int(one["step"]))
            for one in self.evaluations
            if one["step"] and math.isfinite(one[OBJECTIVE])
        ]
        return [step for _, step in sorted(scored)]

    def best(self) -> Best | None:
        """Return the best evaluation."""
        ranking = self.ranking()
        found = self.evaluation(ranking[0]) if ranking else None
        if found is None:
            return None
        return Best(metric=OBJECTIVE, value=found[OBJECTIVE], step=ranking[0])

    def known_checkpoints(self) -> dict[int, CheckpointRef]:
        """Return the checkpoints that earlier attempts verified, by step."""
        return {one["step"]: CheckpointRef(**one) for one in self.checkpoints}

    def as_json(self) -> dict[str, Any]:
        """Return the record for a checkpoint's state."""
        return asdict(self)
