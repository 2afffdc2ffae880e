"""Parameter groups, the optimizer, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn
from torch.optim import AdamW, Optimizer

from finetune_api.training_settings import Scheduler, Training


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then a shape down to `floor` x peak at step `total`."""

    peak: float
    total: int
    warmup: int
    shape: Scheduler
    floor: float = 0.0

    def rate(self, step: int) -> float:
        """Return the rate of update `step`, counted from 0; no state, so resume cannot bend it."""
        if step < self.warmup:
            return self.peak * (step + 1) / (self.warmup + 1)
        done = (step - self.warmup) / max(1, self.total - self.warmup)
        return self.peak * (self.floor + (1 - self.floor) * self._fall(done))

    def _fall(self, done: float) -> float:
        if self.shape is Scheduler.LINEAR:
            return 1 - done
        if self.shape is Scheduler.COSINE:
            return (1 + math.cos(math.pi * done)) / 2
        return 1.0


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]], weight_decay: float
) -> list[dict[str, object]]:
    """Return decayed and undecayed parameters; biases and norms, having one dimension, never."""
    trained = [(name, one) for name, one in named if one.requires_grad]
    matrices = [one for _, one in trained if one.ndim > 1]
    vectors = [one for _, one in trained if one.ndim <= 1]
    groups: list[dict[str, object]] = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(model: nn.Module, training: Training) -> Optimizer:
    """Return AdamW in its fused form, which takes a flag that makes an update inert."""
    groups = parameter_groups(model.named_parameters(), training.weight_decay)
    return AdamW(
        groups,
        lr=0.0,
        betas=(training.adam_beta1, training.adam_beta2),
        eps=training.adam_epsilon,
        fused=True,
    )
