"""The balancing loss of routed experts, where a model's config.json asks for it.

It keeps a router from sending all tokens to a few experts (arXiv:2101.03961, equations 4 to 6).
Its value comes from the library's own function for the architecture.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from finetune_trainer.data import MicroBatch
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.model_config import model_config

FUNCTION = "load_balancing_loss_func"
EXPERTS = ("num_local_experts", "num_experts")
CHOSEN, COEFFICIENT = "num_experts_per_tok", "router_aux_loss_coef"


@dataclass(frozen=True)
class RouterBalance:
    """How the balancing loss of a model is taken from the logits of its routers."""

    coefficient: float
    """coefficient of this loss beside the cross-entropy."""
    experts: int
    chosen: int
    """chosen is the number of experts per token."""
    function: Callable[..., Tensor]

    def of(self, logits: tuple[Tensor, ...], batch: MicroBatch) -> Tensor:
        """Return float32[]: the loss of a micro-batch, over its tokens in all layers.

        A product of means: it knows nothing of other micro-batches.
        """
        return self.function(logits, self.experts, self.chosen, batch.real)


def router_balance(config: Any) -> RouterBalance | None:
    """Return the balancing loss that a configuration asks for, None where it asks for none.

    Raises ConfigurationError (UnsupportedModel) for architectures that define it otherwise.
    """
    text = config.get_text_config()
    if not getattr(text, "output_router_logits", False):
        return None
    architecture = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    function = architecture and getattr(sys.modules[architecture.__module__], FUNCTION, None)
    experts = next((n for name in EXPERTS if (n := getattr(text, name, None))), None)
    chosen, coefficient = getattr(text, CHOSEN, None), getattr(text, COEFFICIENT, None)
    if function is None or experts is None or chosen is None or coefficient is None:
        raise unknown_balance(config.model_type)
    return RouterBalance(float(coefficient), int(experts), int(chosen), function)


def check_balance(folder: Path) -> None:
    """Raise ConfigurationError (UnsupportedModel) where a folder asks for an unknown loss."""
    router_balance(model_config(folder))


def unknown_balance(name: str) -> ConfigurationError:
    """Return the refusal of a model whose balancing loss is not the one computed here."""
    return ConfigurationError(
        f"spec.model: the config.json of {name} asks for a balancing loss of its router "
        "(output_router_logits) that the trainer does not know; set it to false there",
        reason="UnsupportedModel",
    )
