"""What the GPUs of a run cost, and whether its budget is spent.

GPU time is the time on nodes times the GPUs that an attempt holds; preparations hold none. Like
other budgets it is one of the revision.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from finetune_api.compute_settings import TrainingCompute
from finetune_api.experiment_status import CostStatus, ExperimentStatus
from finetune_api.finetune_experiment import ExperimentSpec, FineTuneExperiment
from finetune_api.run_policy import Budget, OnBudgetExhausted
from finetune_operator.checks import Refusal
from finetune_operator.manifests.rank_affinity import PRODUCT_LABEL
from finetune_operator.observed import Policy
from finetune_operator.planners.elapsed import seconds_since

EXHAUSTED = "BudgetExhausted"
NOTICE_SHARE = 0.8
ANY_PRODUCT = "*"
_PRODUCT_LABELS = (PRODUCT_LABEL, "amd.com/gpu.product-name")


@dataclass(frozen=True)
class Spending:
    """The GPU time of a revision so far, and what may be spent."""

    gpu_seconds: int
    gpus: int
    """gpus that are held now."""
    price: float | None
    """price of a GPU-hour, if one is known."""
    currency: str
    budget: Budget | None

    @property
    def limit_seconds(self) -> float | None:
        """Return the GPU time at which the budget is spent; None = there is no limit."""
        return min(self._limits(), default=None)

    @property
    def exhausted(self) -> bool:
        """Tell whether the budget is spent."""
        return self.limit_seconds is not None and self.gpu_seconds >= self.limit_seconds

    @property
    def suspends(self) -> bool:
        """Tell whether the run is to stand still for it."""
        return self.exhausted and not self._is_final

    @property
    def fails(self) -> bool:
        """Tell whether the run has failed for it."""
        return self.exhausted and self._is_final

    @property
    def message(self) -> str:
        """Return in words what was spent of what."""
        return f"the budget is spent: {self.said}; raise runPolicy.budget to go on"

    @property
    def said(self) -> str:
        """Return the spent and the allowed amounts."""
        return " and ".join(self._said())

    @property
    def amount(self) -> float | None:
        """Return the money, as far as a price is known."""
        return self._priced(self.gpu_seconds)

    def seconds_left(self) -> float | None:
        """Return after how many seconds the GPUs held now will have spent the budget, or None."""
        if self.limit_seconds is None or not self.gpus:
            return None
        return max(0.0, self.limit_seconds - self.gpu_seconds) / self.gpus

    def is_noticed_since(self, known: CostStatus | None) -> bool:
        """Tell whether most of the budget is spent, and was not when the cost was last written."""
        if self.limit_seconds is None:
            return False
        most = NOTICE_SHARE * self.limit_seconds
        return (known.gpu_seconds if known else 0) < most <= self.gpu_seconds

    def status(self, ended: int, *, remaining: int | None = None) -> CostStatus:
        """Return what the status says of it; `ended` GPU-seconds are those of ended attempts.

        `remaining` GPU-seconds are what the rest of the run will take, if that is known.
        """
        known = self.price is not None
        whole = None if remaining is None else self.gpu_seconds + remaining
        return CostStatus(
            gpu_seconds=self.gpu_seconds,
            ended_gpu_seconds=ended,
            amount=self.amount,
            currency=(self.currency or None) if known else None,
            forecast_gpu_seconds=whole,
            forecast=None if whole is None else self._priced(whole),
        )

    def _priced(self, gpu_seconds: int) -> float | None:
        return None if self.price is None else round(gpu_seconds / 3600 * self.price, 2)

    @property
    def _is_final(self) -> bool:
        return self.budget is not None and self.budget.on_exhausted is OnBudgetExhausted.FAIL

    def _limits(self) -> Iterator[float]:
        if self.budget is None:
            return
        if self.budget.gpu_hours:
            yield self.budget.gpu_hours * 3600
        if self.budget.cost and self.price:
            yield self.budget.cost / self.price * 3600

    def _said(self) -> Iterator[str]:
        if self.budget and self.budget.gpu_hours:
            yield f"{self.gpu_seconds / 3600:.2f} of {self.budget.gpu_hours:g} GPU-hours"
        if self.budget and self.budget.cost and self.amount is not None:
            yield f"{self.amount:.2f} of {self.budget.cost:g} {self.currency}".rstrip()


def spending(experiment: FineTuneExperiment, policy: Policy, now: datetime) -> Spending:
    """Return what a run has spent by now."""
    status, budget = experiment.status, experiment.spec.run_policy.budget
    attempt = status.attempt
    held = (attempt.gpus or 0) if attempt.started_time and attempt.ended is None else 0
    own = budget is not None and budget.gpu_hour_price is not None
    return Spending(
        gpu_seconds=ended_gpu_seconds(status) + held * seconds_since(attempt.started_time, now),
        gpus=held,
        price=gpu_hour_price(experiment.spec, policy),
        currency=((budget.currency or "") if own and budget else policy.currency),
        budget=budget,
    )


def ended_gpu_seconds(status: ExperimentStatus) -> int:
    """Return the GPU time of the attempts of this revision that have ended."""
    return status.cost.ended_gpu_seconds if status.cost else 0


def gpu_hour_price(spec: ExperimentSpec, policy: Policy) -> float | None:
    """Return the spec's price, else the dearest that the administrator's table has for it."""
    if spec.run_policy.budget and spec.run_policy.budget.gpu_hour_price:
        return spec.run_policy.budget.gpu_hour_price
    prices = policy.gpu_hour_prices
    known = [prices[name] for name in _products(spec.compute) if name in prices]
    return max(known) if known else prices.get(ANY_PRODUCT)


def the_budget_has_a_price(spec: ExperimentSpec, policy: Policy) -> Refusal | None:
    """Money can be counted only where a GPU-hour has a price."""
    budget = spec.run_policy.budget
    if budget is None or budget.cost is None or gpu_hour_price(spec, policy) is not None:
        return None
    named = ", ".join(_products(spec.compute))
    message = (
        f"spec.runPolicy.budget.cost: no price is known for a GPU-hour of {named}; set "
        "gpuHourPrice beside it, or budget.gpuHours instead"
    )
    return Refusal("InvalidSpec", message)


def _products(compute: TrainingCompute) -> list[str]:
    """Return by what names the GPUs of a run may be priced."""
    labels = compute.node_selector or {}
    selected = [labels[name] for name in _PRODUCT_LABELS if name in labels]
    return [*(compute.gpu_products or ()), *selected] or [compute.gpu_resource_name]
