"""What a run has seen so far; it travels in every checkpoint, so that reports span attempts."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from finetune_api.evaluation_settings import Checkpoint
from finetune_api.run_outcome import Best, CheckpointRef
from finetune_trainer.objective import Objective
from finetune_trainer.plan import Step

MOST_POINTS = 2000


@dataclass
class RunRecord:
    """Counters, loss curve, evaluations and the base model's answers."""

    step: int = 0
    tokens: int = 0
    supervised: int = 0
    samples: int = 0
    skipped: int = 0
    """skipped counts updates that were not finite and so not applied."""
    skipped_in_a_row: int = 0
    overflows: int = 0
    """overflows counts updates that only the loss scale kept from being finite."""
    overflows_in_a_row: int = 0
    rollbacks: int = 0
    history: list[list[float]] = field(default_factory=list)
    """history holds points [steps done, mean loss, rate, norm]."""
    pending: list[float] = field(default_factory=list)
    """pending are the losses of steps since the last point."""
    evaluations: list[dict[str, float]] = field(default_factory=list)
    test: dict[str, float] = field(default_factory=dict)
    """test is the evaluation of the test split at the end."""
    base_answers: dict[str, list[int]] = field(default_factory=dict)
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    """checkpoints are those verified when this record was saved."""
    differing: list[str] = field(default_factory=list)
    """differing are tensors of the adapter that is trained further which did not fit."""
    objective: Objective | None = None
    """objective ranks evaluations; it is a setting and not saved."""

    def count(self, step: Step) -> None:
        """Count a step that was issued."""
        self.step = step.number + 1
        self.tokens += step.tokens
        self.supervised += step.supervised
        self.samples += len(step.samples)

    def add_values(self, done: int, loss: float, *, rate: float, norm: float, point: bool) -> None:
        """Take a step's values in; `point` closes an interval of the loss curve."""
        if math.isfinite(norm) and math.isfinite(loss):
            self.pending.append(loss)
        if not point or not self.pending:
            return
        mean = math.fsum(self.pending) / len(self.pending)
        self.history.append([done, mean, rate, norm if math.isfinite(norm) else 0.0])
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
        """Return evaluated steps after the start, best first; none without an objective."""
        return [] if self.objective is None else self.objective.ranking(self.evaluations)

    def best(self) -> Best | None:
        """Return the best evaluation."""
        found = self.evaluation(next(iter(self.ranking()), -1))
        if found is None or self.objective is None:
            return None
        name = self.objective.name
        return Best(metric=name, value=found[name], step=int(found["step"]))

    def kept_steps(self, settings: Checkpoint) -> set[int]:
        """Return the steps whose checkpoints are kept, whatever their age."""
        kept = self.ranking()[: settings.keep_best]
        evaluated = self.evaluations if settings.keep_evaluated else []
        return {*kept, *(int(one["step"]) for one in evaluated)}

    def take_over(self, state: dict[str, Any]) -> None:
        """Become the record of a checkpoint again, but for the rollbacks made since."""
        vars(self).update(state, rollbacks=self.rollbacks)

    def known_checkpoints(self) -> dict[int, CheckpointRef]:
        """Return the checkpoints that earlier attempts verified, by step."""
        return {one["step"]: CheckpointRef(**one) for one in self.checkpoints}

    def as_json(self) -> dict[str, Any]:
        """Return the record for a checkpoint's state."""
        return {name: value for name, value in asdict(self).items() if name != "objective"}
