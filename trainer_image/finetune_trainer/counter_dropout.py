"""Adapter dropout whose mask is a function of counters: drawn again in backward, never saved.

A mask depends on seed, step, number of the micro-batch and number of the linear layer, so it is
the same at every world size, after a resume and under recomputation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from finetune_trainer.plan import DROPOUT, mix


@dataclass
class Draws:
    """The micro-batch that runs now; autograd's threads read it too, so it is no context variable.

    A recomputation happens in the backward of its own micro-batch, before the next one is set.
    """

    seed: int = 0
    step: int = 0
    number: int = 0

    def set(self, seed: int, step: int, number: int) -> None:
        """Name the micro-batch whose forward follows."""
        self.seed, self.step, self.number = seed, step, number

    def stream(self, linear: int) -> int:
        """Return the seed of one linear layer's mask."""
        return mix(self.seed, DROPOUT, self.step, self.number, linear)


DRAWS = Draws()


def dropped(x: Tensor, share: float, stream: int) -> Tensor:
    """Return x with a `share` of its elements zeroed and the others divided by 1 - share."""
    generator = torch.Generator(x.device).manual_seed(stream)
    mask = torch.empty_like(x).bernoulli_(1 - share, generator=generator)
    return mask.mul_(x).div_(1 - share)


class CounterDropout(nn.Dropout):
    """PEFT's dropout layer with a counted mask; assigned by `count_dropout`."""

    linear: int

    def forward(self, x: Tensor) -> Tensor:
        """Drop while training; evaluation passes x on."""
        if not self.training:
            return x
        result: Tensor = _Dropped.apply(x, self.p, DRAWS.stream(self.linear))
        return result


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, share: float, stream: int) -> Tensor:
        ctx.share, ctx.stream = share, stream
        return dropped(x, share, stream)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return dropped(grad, ctx.share, ctx.stream), None, None


def count_dropout(model: nn.Module) -> None:
    """Number the dropout of all adapters of a model, in module order."""
    layers: list[Any] = [one for one in model.modules() if hasattr(one, "lora_dropout")]
    for number, layer in enumerate(layers):
        for dropout in layer.lora_dropout.values():
            if type(dropout) is nn.Dropout:
                dropout.__class__ = CounterDropout
                setattr(dropout, "linear", number)  # noqa: B010 - its class has just changed
