"""The one metric behind best, early stop and result: its name, its direction, its ranking."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from finetune_api.evaluation_settings import Evaluation, Metric

REPORTED = {
    Metric.LOSS: "loss",
    Metric.PERPLEXITY: "perplexity_corpus",
    Metric.SAMPLE_PERPLEXITY: "perplexity_sample_mean",
    Metric.TOKEN_ACCURACY: "token_accuracy",
}
HIGHER_IS_BETTER = frozenset({Metric.TOKEN_ACCURACY})
STANDARD = (Metric.LOSS, Metric.PERPLEXITY)


@dataclass(frozen=True)
class Objective:
    """A reported metric and which way is better."""

    name: str
    higher_is_better: bool = False

    def ranking(self, evaluations: Iterable[Mapping[str, float]]) -> list[int]:
        """Return evaluated steps after the start, best first, among equals the earliest first.

        A value that is missing or not finite is never best.
        """
        scored = [
            (self._cost(one[self.name]), int(one["step"]))
            for one in evaluations
            if one["step"] and math.isfinite(one.get(self.name, math.nan))
        ]
        return [step for _, step in sorted(scored)]

    def improves(self, value: float, best: float | None, threshold: float = 0.0) -> bool:
        """Tell whether a value is better than the best by more than the threshold."""
        if not math.isfinite(value):
            return False
        return best is None or self._cost(value) < self._cost(best) - threshold

    def _cost(self, value: float) -> float:
        return -value if self.higher_is_better else value


def objective_of(evaluation: Evaluation, *, seen: bool) -> Objective | None:
    """Return the objective; None where validation records are trained on: they decide nothing."""
    if seen:
        return None
    metric = evaluation.objective
    return Objective(REPORTED[metric], metric in HIGHER_IS_BETTER)


def reported_names(evaluation: Evaluation) -> tuple[str, ...]:
    """Return the metrics to report; the loss is always one of them."""
    wanted = dict.fromkeys([Metric.LOSS, *(evaluation.metrics or STANDARD)])
    return tuple(REPORTED[metric] for metric in wanted)
