"""A frozen base in 4 or 8 bits: which linear layers, how they are quantised, what they stand for.

Only linear layers of the blocks are quantised; embeddings, norms and head keep the loaded type.
One layer is whole at a time, so a device never holds more than the quantised model and one layer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from finetune_api.model_settings import Model, Quantization
from finetune_trainer.adapter_targets import linear_block_names
from finetune_trainer.errors import ConfigurationError

INT8_THRESHOLD = 6.0
"""Outliers above it are computed in 16 bit (LLM.int8, arXiv:2208.07339)."""


@dataclass(frozen=True)
class Quantiser:
    """How one weight becomes its quantised form, and back."""

    kind: Quantization
    double: bool = True
    threshold: float = INT8_THRESHOLD
    compute: torch.dtype = torch.float32
    storage: torch.dtype = torch.uint8
    """storage of 4-bit codes; sharding by FSDP needs a floating type."""

    def layer(self, plain: nn.Linear, device: torch.device) -> nn.Module:
        """Return the quantised layer on a device; the plain one is not needed any more."""
        import bitsandbytes  # noqa: PLC0415 - looks for GPUs; only quantised runs pay

        bnb: Any = bitsandbytes.nn
        sizes, has_bias = (plain.in_features, plain.out_features), plain.bias is not None
        if self.kind is Quantization.INT8:
            # It says at every product that inputs are cast to float16; docs/adapters.md says so.
            logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
            made = bnb.Linear8bitLt(
                *sizes, has_bias, has_fp16_weights=False, threshold=self.threshold, device="meta"
            )
            held = bnb.Int8Params(plain.weight.data.cpu(), requires_grad=False)
        else:
            made = bnb.Linear4bit(*sizes, has_bias, compute_dtype=self.compute, device="meta")
            # Its inference layout for CPUs cannot be trained through.
            made.support_avx512bf16_for_cpu = False
            codes, made.quant_state = self._coded(plain.weight.data.to(device))
            held = bnb.Params4bit(
                codes,
                requires_grad=False,
                quant_state=made.quant_state,
                bnb_quantized=True,
                module=made,
                **self._four_bit(),
            )
        made.weight = held.to(device)
        if made.weight.is_meta:
            # bitsandbytes cannot copy what has no values, and PEFT's DoRA copies what it reads.
            made.weight.__deepcopy__ = lambda _: made.weight
        if self.kind is Quantization.INT8:
            made.init_8bit_state()
            # Once is enough: PEFT's norm for DoRA copies the weight on CPUs without its scales,
            # and a second time would take over that nothing.
            made.init_8bit_state = _nothing
        made.bias = None if plain.bias is None else nn.Parameter(plain.bias.data.to(device), False)
        layer: nn.Module = made.train(plain.training)
        return layer

    def seen(self, weight: Tensor) -> Tensor:
        """Return float32 [M, K]: a weight, in the type it is loaded in, as products see it."""
        import bitsandbytes.functional as bnb  # noqa: PLC0415

        if self.kind is Quantization.INT8:
            codes, scales, _ = bnb.int8_vectorwise_quant(weight.to(torch.float16))
            return torch.as_tensor(codes.float() * (scales.float()[:, None] / 127))
        whole: Tensor = bnb.dequantize_4bit(*self._coded(weight))
        return whole.float()

    def _coded(self, weight: Tensor) -> tuple[Tensor, Any]:
        """Return 4-bit codes and what turns them back; shapes alone where a weight has no more."""
        from bitsandbytes.functional import quantize_4bit  # noqa: PLC0415

        if weight.is_meta:
            # The library keeps the table of codes of the first device that it meets.
            quantize_4bit(torch.zeros(64), blocksize=64, **self._four_bit())
        codes, state = quantize_4bit(weight.contiguous(), blocksize=64, **self._four_bit())
        return codes, state

    def _four_bit(self) -> dict[str, Any]:
        return {
            "quant_type": self.kind.value.lower(),
            "compress_statistics": self.double,
            "quant_storage": self.storage,
        }


def quantiser(
    kind: Quantization, model: Model, compute: torch.dtype, storage: torch.dtype = torch.uint8
) -> Quantiser | None:
    """Return how a base of the resolved kind is quantised; None where it stays whole."""
    if kind is Quantization.NONE:
        return None
    threshold = INT8_THRESHOLD if model.int8_threshold is None else model.int8_threshold
    return Quantiser(kind, model.double_quantization, threshold, compute, storage)


def quantised_names(model: Any, whole: Collection[str] = ()) -> list[str]:
    """Return the linear layers of the blocks, but those inside modules that are trained `whole`."""
    linears = [name for name, one in model.named_modules() if type(one) is nn.Linear]
    prefixes = tuple(f"{one}." for one in whole)
    return [
        name
        for name in linear_block_names(model, linears)
        if name not in whole and not name.startswith(prefixes or ("\0",))
    ]


def quantise(
    model: Any, quantiser: Quantiser, device: torch.device, whole: Collection[str] = ()
) -> None:
    """Replace the linear layers of the blocks by quantised ones on a device, one by one."""
    names = quantised_names(model, whole)
    if not names:
        raise ConfigurationError(
            "spec.model.quantization: the model has no plain linear layers in its blocks; set None",
            reason="UnsupportedModel",
        )
    for name in names:
        plain = model.get_submodule(name)
        model.set_submodule(name, quantiser.layer(plain, device))
        plain.weight = None
    # PEFT chooses its layers by these.
    model.is_loaded_in_8bit = quantiser.kind is Quantization.INT8
    model.is_loaded_in_4bit = not model.is_loaded_in_8bit


def is_coded(layer: Any, parameter: str) -> bool:
    """Tell whether a parameter of a layer is its weight in 4 bits."""
    return parameter == "weight" and getattr(layer, "quant_state", None) is not None


def take_codes(layer: Any, weight: Tensor, storage: torch.dtype) -> Tensor:
    """Return a weight's 4-bit codes for a layer that was built without; it keeps their state."""
    from bitsandbytes.functional import quantize_4bit  # noqa: PLC0415 - as in `layer`

    like = layer.quant_state
    codes, layer.quant_state = quantize_4bit(
        weight.contiguous(),
        blocksize=like.blocksize,
        compress_statistics=like.nested,
        quant_type=like.quant_type,
        quant_storage=storage,
    )
    whole: Tensor = codes
    return whole


def share_code_state(layer: Any, device: torch.device, share: Callable[[Tensor], object]) -> None:
    """Call `share` on all tensors that turn a layer's codes back; what has no values gets room."""
    state = layer.quant_state
    holders = [(state, "absmax"), (state, "code")]
    if state.nested:
        holders += [(state, "offset"), (state.state2, "absmax"), (state.state2, "code")]
    for holder, name in holders:
        tensor = getattr(holder, name)
        room = torch.empty_like(tensor, device=device) if tensor.is_meta else tensor.to(device)
        setattr(holder, name, room)
        share(room)


def _nothing() -> None:
    """Do nothing."""
