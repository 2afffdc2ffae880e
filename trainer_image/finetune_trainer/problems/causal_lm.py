"""Next-token prediction on the supervised tokens of text and conversations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from finetune_trainer.counter_dropout import DRAWS
from finetune_trainer.data import MicroBatch
from finetune_trainer.noise import noisy
from finetune_trainer.plan import DROPOUT, mix
from finetune_trainer.router_balance import RouterBalance
from finetune_trainer.row_loss import (
    LogitForm,
    recomputed_cross_entropy,
    row_cross_entropy,
    row_scores,
)


class CausalLanguageModelling(nn.Module):
    """Backbone, head and loss as one module, so that reducers see the whole computation."""

    def __init__(
        self,
        model: nn.Module,
        seed: int,
        smoothing: float = 0.0,
        noise: float = 0.0,
        balance: RouterBalance | None = None,
    ) -> None:
        super().__init__()
        self.model, self._seed, self._noise = model, seed, noise
        self.balance, self._router = balance, torch.zeros(())
        causal: Any = model
        causal = causal.get_base_model() if hasattr(causal, "peft_config") else causal
        # Kept out of the module tree: they are parts of `model` and would be named twice.
        self.__dict__["_backbone"] = causal.base_model
        self.__dict__["_head"] = causal.get_output_embeddings()
        self._vocabulary = causal.config.get_text_config().vocab_size
        self._form = logit_form(causal.config.get_text_config(), smoothing)

    def forward(self, batch: MicroBatch) -> Tensor:
        """Return float32[]: the micro-batch's share of the step's loss, the router's included."""
        # Dropout is drawn anew per micro-batch, alike at every world size and after a resume.
        torch.manual_seed(mix(self._seed, DROPOUT, batch.step, batch.number))
        DRAWS.set(self._seed, batch.step, batch.number)
        if self.balance is None:
            return self._cross_entropy(self.hidden(batch), batch)
        output = self._decoded(batch, output_router_logits=True)
        router = batch.share * self.balance.of(output.router_logits, batch)
        self._router = router.detach()
        loss = self._cross_entropy(_supervised(output, batch), batch)
        return loss + self.balance.coefficient * router

    def parts(self, loss: Tensor) -> Tensor:
        """Return what the last forward's loss is made of, apart and detached, for reports.

        float32[1], the cross-entropy; with a router float32[2], its loss before the coefficient.
        """
        if self.balance is None:
            return loss.detach().reshape(1)
        return torch.stack((loss.detach() - self.balance.coefficient * self._router, self._router))

    @torch.no_grad()
    def row_losses(self, batch: MicroBatch) -> Tensor:
        """Return float32[R]: -log p of every supervised token, in nats."""
        return self.row_scores(batch)[0]

    @torch.no_grad()
    def row_scores(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Return the row losses, and bool[R]: whether each token was the likeliest."""
        hidden, head = self.hidden(batch), self.head
        return row_scores(hidden, head, batch.labels, self._form, vocabulary=self.vocabulary)

    def hidden(self, batch: MicroBatch) -> Tensor:
        """Return the hidden states of the supervised rows, [R, H]."""
        return _supervised(self._decoded(batch), batch)

    @torch.no_grad()
    def router_loss(self, batch: MicroBatch) -> Tensor:
        """Return float32[]: the balancing loss of a micro-batch, before its coefficient."""
        assert self.balance is not None  # noqa: S101 - for mypy: callers have asked
        output = self._decoded(batch, output_router_logits=True)
        return self.balance.of(output.router_logits, batch)

    def _decoded(self, batch: MicroBatch, **wanted: bool) -> Any:
        # Padded rows need no layout: they are padded on the right, and attention is causal.
        layout = {} if batch.layout is None else {"layout": batch.layout}
        return self.__dict__["_backbone"](
            **self._inputs(batch), position_ids=batch.positions, use_cache=False, **layout, **wanted
        )

    def _cross_entropy(self, hidden: Tensor, batch: MicroBatch) -> Tensor:
        head, form = self.head, self._form
        if type(head) is nn.Linear and head.bias is None:
            return row_cross_entropy(hidden, head.weight, batch.labels, batch.weights, form)
        return recomputed_cross_entropy(
            hidden, head, batch.labels, batch.weights, form, vocabulary=self.vocabulary
        )

    def _inputs(self, batch: MicroBatch) -> dict[str, Tensor]:
        if not (self._noise and self.training):
            return {"input_ids": batch.tokens}
        embedded = self.__dict__["_backbone"].get_input_embeddings()(batch.tokens)
        return {"inputs_embeds": noisy(embedded, batch, self._noise, self._seed)}

    @property
    def vocabulary(self) -> int:
        """Number of the head's rows, padding included."""
        # Not the head's own number: PEFT's layer of trained rows has none.
        return int(self._vocabulary)

    @property
    def head_weight(self) -> Tensor:
        """The head's matrix, [V, H]."""
        weight: Tensor = self.head.weight
        return weight

    @property
    def head(self) -> Any:
        """The layer that makes logits."""
        return self.__dict__["_head"]


def _supervised(output: Any, batch: MicroBatch) -> Tensor:
    states: Tensor = output.last_hidden_state.flatten(0, 1)
    return states.index_select(0, batch.rows)


def logit_form(config: Any, smoothing: float) -> LogitForm:
    """Return what the model's own forward does to its logits, by the names its config uses.

    A model that does something else is found by the start-up probe, which compares our loss with
    the library's.
    """
    scale = float(getattr(config, "logit_scale", None) or 1.0)  # Cohere
    divisor = getattr(config, "logits_scaling", None)  # Granite; HyperCLOVA X multiplies by it
    if divisor:
        times = config.model_type.startswith("hyperclovax")
        scale *= float(divisor) if times else 1.0 / float(divisor)
    cap = getattr(config, "final_logit_softcapping", None)  # Gemma
    return LogitForm(scale, float(cap) if cap else None, smoothing)
