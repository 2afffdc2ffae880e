"""One autograd function per adapted linear layer: base product and low-rank update together.

PEFT stays the format: its layers get a subclass assigned that computes the same from the same
parameters, saves x and the low-rank product only, and keeps the masters in float32.
Shape suffixes: `N` tokens, `K` inputs, `M` outputs, `R` rank.
"""
# ruff: noqa: N803, N806 - tensors carry shape suffixes

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from finetune_trainer.counter_dropout import (
    DRAWS,
    CounterDropout,
    count_dropout,
    kept_share,
    mask_like,
)

ADAPTER = "default"


@dataclass(frozen=True)
class Product:
    """What a product needs besides tensors: scale of the update, dropout, type, 4-bit state."""

    scale: float
    dtype: torch.dtype
    share: float = 0.0
    stream: int = 0
    state: Any = None

    @property
    def kept(self) -> float:
        """Share of the inputs that dropout leaves."""
        return kept_share(self.share)

    def mask(self, x: Tensor) -> Tensor | None:
        """Return the ones and zeros of this call, the same every time; None without dropout."""
        return mask_like(x, self.share, self.stream) if self.share else None

    def base(self, weight: Tensor) -> Tensor:
        """Return [M, K] in the type of arithmetic; dequantised for one matrix product."""
        if self.state is None:
            return weight.to(self.dtype)
        from bitsandbytes.functional import dequantize_4bit  # noqa: PLC0415 - quantised bases only

        whole: Tensor = dequantize_4bit(weight, self.state)
        return whole.to(self.dtype)


class FusedLoraProduct(torch.autograd.Function):
    """y = x Wᵀ + bias + scale · D(x) Aᵀ Bᵀ, with gradients for x, A, B (arXiv:2106.09685)."""

    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917 - autograd sees tensors only as arguments
        ctx: Any,
        x: Tensor,
        A_RK: Tensor,
        B_MR: Tensor,
        weight: Tensor,
        bias_M: Tensor | None,
        how: Product,
    ) -> Tensor:
        """Return [..., M]; saves x, h [N, R], the weight, and A and B as they were multiplied."""
        rows_NK = x.reshape(-1, x.shape[-1])
        x_NK = rows_NK.to(how.dtype)
        a_RK, b_MR, mask_NK = A_RK.to(how.dtype), B_MR.to(how.dtype), how.mask(x_NK)
        h_NR = (x_NK if mask_NK is None else mask_NK.mul_(x_NK)) @ a_RK.T
        W_KM = how.base(weight).T
        y_NM = x_NK @ W_KM if bias_M is None else torch.addmm(bias_M.to(how.dtype), x_NK, W_KM)
        y_NM.addmm_(h_NR, b_MR.T, alpha=how.scale / how.kept)
        ctx.save_for_backward(rows_NK, h_NR, a_RK, b_MR, weight)
        ctx.how, ctx.shape, ctx.masters = how, x.shape, A_RK.dtype
        return y_NM.view(*x.shape[:-1], y_NM.shape[-1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Draw the mask again; x gets a gradient only where something before it is trained."""
        rows_NK, h_NR, a_RK, b_MR, weight = ctx.saved_tensors
        how: Product = ctx.how
        g_NM = grad.reshape(-1, grad.shape[-1]).to(how.dtype)
        x_NK = rows_NK.to(how.dtype)
        scale, mask_NK = how.scale / how.kept, how.mask(x_NK)
        u_NR = (g_NM @ b_MR).mul_(scale)
        grad_B = (g_NM.T @ h_NR).to(ctx.masters).mul_(scale)
        grad_A = (u_NR.T @ (x_NK if mask_NK is None else x_NK * mask_NK)).to(ctx.masters)
        if not ctx.needs_input_grad[0]:
            return None, grad_A, grad_B, None, None, None
        grad_NK = g_NM @ how.base(weight)
        if mask_NK is None:
            grad_NK.addmm_(u_NR, a_RK)
        else:
            grad_NK.addcmul_(u_NR @ a_RK, mask_NK)
        return grad_NK.view(ctx.shape).to(rows_NK.dtype), grad_A, grad_B, None, None, None


class FusedForward:
    """Forward of a fused layer; PEFT's own where the layer's state asks for more."""

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return [..., M] in the type of arithmetic."""
        if args or kwargs or self.disable_adapters or self.merged:
            result: Tensor = super().forward(x, *args, **kwargs)  # type: ignore[misc]
            return result
        layer, dropout = self.base_layer, self.lora_dropout[ADAPTER]
        drops = isinstance(dropout, CounterDropout) and dropout.training
        how = Product(
            scale=self.scaling[ADAPTER],
            dtype=_arithmetic(x),
            share=dropout.p if drops else 0.0,
            stream=DRAWS.stream(dropout.linear) if drops else 0,
            # On the layer, not on its weight: sharding replaces the weight.
            state=getattr(layer, "quant_state", None),
        )
        down, up = self.lora_A[ADAPTER].weight, self.lora_B[ADAPTER].weight
        fused: Tensor = FusedLoraProduct.apply(x, down, up, layer.weight, layer.bias, how)
        return fused


def fuse(model: nn.Module) -> int:
    """Assign the fused subclass to every layer that is served exactly; return their number.

    Served are PEFT's Linear and Linear4bit over a plain or 4-bit linear layer with one active,
    unmerged adapter and no DoRA, LoRA bias or other variant. All others keep PEFT's forward, with
    the same counted dropout.
    """
    count_dropout(model)
    classes = _fused_classes()
    fused = 0
    for module in model.modules():
        if type(module) in classes and _served(module):
            module.__class__ = classes[type(module)]
            fused += 1
    return fused


def _arithmetic(x: Tensor) -> torch.dtype:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _served(module: Any) -> bool:
    layer = module.base_layer
    plain = type(layer) is nn.Linear or type(layer).__name__ == "Linear4bit"
    return (
        plain
        and not layer.weight.requires_grad
        and module.active_adapters == [ADAPTER]
        and list(module.lora_A) == [ADAPTER]
        and not module.merged
        and not module.lora_variant
        and not module.fan_in_fan_out
        and module.lora_B[ADAPTER].bias is None
    )


def _fused_classes() -> dict[type, type]:
    # PEFT imports half of accelerate, and bitsandbytes looks for GPUs: only runs with adapters pay.
    from peft.tuners.lora import layer  # noqa: PLC0415

    plain = [layer.Linear]
    try:
        from peft.tuners.lora.bnb import Linear4bit  # noqa: PLC0415
    except ImportError:
        pass
    else:
        plain.append(Linear4bit)
    return {one: type(f"Fused{one.__name__}", (FusedForward, one), {}) for one in plain}
