"""Next-token prediction on the supervised tokens of text and conversations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from finetune_trainer.data import MicroBatch
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.ops import row_cross_entropy, row_losses
from finetune_trainer.plan import DROPOUT, mix


class CausalLanguageModelling(nn.Module):
    """Backbone, head and loss as one module, so that reducers see the whole computation."""

    def __init__(self, model: nn.Module, seed: int) -> None:
        super().__init__()
        self.model, self._seed = model, seed
        causal: Any = model
        causal = causal.get_base_model() if hasattr(model, "peft_config") else causal
        head = causal.get_output_embeddings()
        if type(head) is not nn.Linear or head.bias is not None:
            raise ConfigurationError(
                f"spec.model: the head of {type(causal).__name__} is no plain linear layer; use "
                "another model",
                reason="UnsupportedModel",
            )
        # Kept out of the module tree: they are parts of `model` and would be named twice.
        self.__dict__["_backbone"], self.__dict__["_head"] = causal.base_model, head

    def forward(self, batch: MicroBatch) -> Tensor:
        """Return float32[]: the micro-batch's share of the step's loss."""
        # Dropout is drawn anew per micro-batch, alike at every world size and after a resume.
        torch.manual_seed(mix(self._seed, DROPOUT, batch.step, batch.number))
        return row_cross_entropy(self.hidden(batch), self.head_weight, batch.labels, batch.weights)

    @torch.no_grad()
    def row_losses(self, batch: MicroBatch) -> Tensor:
        """Return float32[R]: -log p of every supervised token, in nats."""
        return row_losses(self.hidden(batch), self.head_weight, batch.labels)

    def hidden(self, batch: MicroBatch) -> Tensor:
        """Return the hidden states of the supervised rows, [R, H]."""
        output = self.__dict__["_backbone"](
            input_ids=batch.tokens,
            position_ids=batch.positions,
            use_cache=False,
            layout=batch.layout,
        )
        states: Tensor = output.last_hidden_state[0]
        return states.index_select(0, batch.rows)

    @property
    def head_weight(self) -> Tensor:
        """The head's matrix, [V, H]."""
        head: nn.Linear = self.__dict__["_head"]
        return head.weight
