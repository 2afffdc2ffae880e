"""RMSNorm and gated products that save nothing but their inputs, for listed transformers classes.

Instances of the listed classes get a subclass assigned; names, state dicts and `isinstance` stay.
Forward is the library's arithmetic in the library's order, so it is equal bit for bit.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import GELUTanh, SiLUActivation

LLAMA_LIKE = ("llama.Llama", "mistral.Mistral", "qwen2.Qwen2", "qwen3.Qwen3", "phi3.Phi3")
GEMMA_LIKE = ("gemma.Gemma", "gemma2.Gemma2")
SPLIT_GATED = ("llama.Llama", "mistral.Mistral", "qwen2.Qwen2", "qwen3.Qwen3", *GEMMA_LIKE)
JOINT_GATED = ("phi3.Phi3",)


def lean(model: nn.Module) -> int:
    """Assign the lean subclass to every instance of a listed class; return their number."""
    assigned = 0
    modules: list[Any] = list(model.modules())
    for module in modules:
        forward = _lean_forwards().get(_place(type(module)))
        if forward is None or not _known_gate(module):
            continue
        module.__class__ = _lean_class(forward, module.__class__)
        assigned += 1
    return assigned


class LeanNorm(torch.autograd.Function):
    """RMSNorm (arXiv:1910.07467) that recomputes the normalised input in backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float, wide: bool) -> Tensor:
        """Return [..., H]; `wide` multiplies by 1 + weight in float32 before rounding, as Gemma."""
        ctx.save_for_backward(x, weight)
        ctx.epsilon, ctx.wide = epsilon, wide
        normed, _ = _normalised(x, epsilon)
        if wide:
            return (normed * (1.0 + weight.float())).type_as(x)
        return weight * normed.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of x, and of the weight where it is trained."""
        x, weight = ctx.saved_tensors
        normed, scale = _normalised(x, ctx.epsilon)
        factor = 1.0 + weight.float() if ctx.wide else weight
        grad_x = grad_weight = None
        if ctx.needs_input_grad[1]:
            kept = normed if ctx.wide else normed.to(x.dtype)
            grad_weight = (grad * kept).flatten(0, -2).sum(0).to(weight.dtype)
        if ctx.needs_input_grad[0]:
            slope = (grad * factor).to(normed.dtype)
            shared = (slope * normed).mean(-1, keepdim=True)
            grad_x = slope.sub_(normed.mul_(shared)).mul_(scale).to(x.dtype)
        return grad_x, grad_weight, None, None


def _normalised(x: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    wide = x.to(torch.float32)
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    return wide * scale, scale


class GatedProduct(torch.autograd.Function):
    """act(gate) · up (arXiv:2002.05202) that saves gate and up only."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, tanh: bool) -> Tensor:
        """Return act(gate) · up; act is SiLU, or GELU's tanh form."""
        ctx.save_for_backward(gate, up)
        ctx.tanh = tanh
        return _activated(gate, tanh=tanh) * up

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of gate and up."""
        gate, up = ctx.saved_tensors
        if ctx.tanh:
            inner = torch.ops.aten.gelu_backward(grad * up, gate, approximate="tanh")
        else:
            inner = torch.ops.aten.silu_backward(grad * up, gate)
        return inner, grad * _activated(gate, tanh=ctx.tanh), None


def _activated(gate: Tensor, *, tanh: bool) -> Tensor:
    return F.gelu(gate, approximate="tanh") if tanh else F.silu(gate)


class _Norm:
    def forward(self: Any, x: Tensor) -> Tensor:
        result: Tensor = LeanNorm.apply(x, self.weight, self.variance_epsilon, False)
        return result


class _WideNorm:
    def forward(self: Any, x: Tensor) -> Tensor:
        result: Tensor = LeanNorm.apply(x, self.weight, self.eps, True)
        return result


class _SplitGated:
    def forward(self: Any, x: Tensor) -> Tensor:
        tanh = isinstance(self.act_fn, GELUTanh)
        product = GatedProduct.apply(self.gate_proj(x), self.up_proj(x), tanh)
        result: Tensor = self.down_proj(product)
        return result


class _JointGated:
    def forward(self: Any, x: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        product = GatedProduct.apply(gate, up, isinstance(self.activation_fn, GELUTanh))
        result: Tensor = self.down_proj(product)
        return result


@cache
def _lean_forwards() -> dict[str, type]:
    listed: list[tuple[tuple[str, ...], str, type]] = [
        (LLAMA_LIKE, "RMSNorm", _Norm),
        (GEMMA_LIKE, "RMSNorm", _WideNorm),
        (SPLIT_GATED, "MLP", _SplitGated),
        (JOINT_GATED, "MLP", _JointGated),
    ]
    return {name + kind: forward for names, kind, forward in listed for name in names}


@cache
def _lean_class(forward: type, original: type) -> type:
    return type(f"Lean{original.__name__}", (forward, original), {})


def _place(kind: type) -> str:
    """Return `llama.LlamaMLP` for a class of transformers, nothing for anybody else's."""
    parts = kind.__module__.split(".")
    return f"{parts[2]}.{kind.__name__}" if parts[:2] == ["transformers", "models"] else ""


def _known_gate(module: Any) -> bool:
    activation = getattr(module, "activation_fn", None) or getattr(module, "act_fn", None)
    return activation is None or isinstance(activation, (nn.SiLU, SiLUActivation, GELUTanh))
