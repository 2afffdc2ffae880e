"""New vocabulary rows: grown into the model, trained beside an adapter, never shrunk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ADAPTER, NEW_TOKENS = "default", "new_tokens.json"


@dataclass(frozen=True)
class NewRow:
    """The row of a token that the tokenizer did not have, and the ids that stood for its text."""

    id: int
    pieces: Sequence[int]


def new_rows(prepared: Path) -> list[NewRow]:
    """Return the rows that a preparation asks for; none where the tokenizer did not grow."""
    path = prepared / NEW_TOKENS
    tokens = json.loads(path.read_bytes())["tokens"] if path.exists() else []
    return [NewRow(int(one["id"]), list(one["pieces"])) for one in tokens]


@torch.no_grad()
def grow_vocabulary(model: Any, tokens: Sequence[NewRow]) -> list[int]:
    """Give every new token its rows and return the ids whose rows are to be trained.

    A row starts at the mean of the rows of the pieces that stood for the token's text before. A
    padded vocabulary keeps its size; a row between, which no token uses, starts at zero.
    """
    if not tokens:
        return []
    before = min(len(table) for table in _tables(model))
    rows = max(before, 1 + max(token.id for token in tokens))
    if rows > before:
        model.resize_token_embeddings(rows, mean_resizing=False)
    for table in {id(one): one for one in _tables(model)}.values():
        _begin_rows(table, before, tokens)
    return sorted({token.id for token in tokens} | set(range(before, rows)))


def grown_table(table: Tensor, before: int, tokens: Sequence[NewRow]) -> Tensor:
    """Return a copy of a table with the tokens' rows as `grow_vocabulary` begins them."""
    rows = max(len(table), *(1 + token.id for token in tokens))
    grown = torch.cat((table, table.new_zeros(rows - len(table), *table.shape[1:])))
    _begin_rows(grown, before, tokens)
    return grown


def table_names(model: Any) -> list[str]:
    """Return the names of the parameters that have a row per token; a shared one once."""
    tables = {id(one) for one in _tables(model)}
    return [name for name, one in model.named_parameters() if id(one) in tables]


def _begin_rows(table: Tensor, before: int, tokens: Sequence[NewRow]) -> None:
    table[before:] = 0
    for token in tokens:
        table[token.id] = table[list(token.pieces)].float().mean(0).to(table.dtype)


def token_row_targets(
    model: Any, ids: Sequence[int], trained: Sequence[str]
) -> dict[str, list[int]]:
    """Return PEFT's `trainable_token_indices`: the embeddings, and the head where it is untied.

    A table among the `trained` modules needs none: all of its rows are trained.
    """
    names = {id(module): name for name, module in model.named_modules()}
    places = [model.get_input_embeddings()]
    head = model.get_output_embeddings()
    if head is not None and head.weight is not places[0].weight:
        places.append(head)
    found = (names[id(place)] for place in places)
    return {name: list(ids) for name in found if name not in trained}


def _tables(model: Any) -> list[Tensor]:
    places = (model.get_input_embeddings(), model.get_output_embeddings())
    return [place.weight for place in places if place is not None]


class TokenRows:
    """PEFT's trained token rows without a copy of the table, its gradient, or a host read."""

    def get_merged_weights(self: Any, _active: Any) -> Tensor:
        """Return [V, H]: the table with the trained rows in it, for a head."""
        table: Tensor = self.base_layer.weight
        return table.index_copy(0, self.ids, self.trainable_tokens_delta[ADAPTER].to(table))

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Look rows up in the frozen table, then in the trained rows, and choose per token."""
        if not isinstance(self.base_layer, nn.Embedding) or self.disable_adapters or self.merged:
            whole: Tensor = super().forward(x, *args, **kwargs)  # type: ignore[misc]
            return whole
        frozen, slots = self.base_layer(x), self.slots[x]
        own = F.embedding(slots.clamp(min=0), self.trainable_tokens_delta[ADAPTER])
        scale = self._get_embed_scale()
        own = own if scale is None else own * scale
        return torch.where((slots >= 0)[..., None], own.to(frozen.dtype), frozen)


def fuse_token_rows(model: nn.Module) -> None:
    """Assign `TokenRows` to PEFT's layers of trained rows."""
    from peft.tuners.trainable_tokens.layer import TrainableTokensLayer  # noqa: PLC0415 - slow

    fused = type("FusedTokenRows", (TokenRows, TrainableTokensLayer), {})
    layers: list[Any] = list(model.modules())
    for module in layers:
        if type(module) is not TrainableTokensLayer:
            continue
        table = module.base_layer.weight
        place = "cpu" if table.is_meta else table.device
        ids = torch.tensor(module.token_indices[ADAPTER], device=place)
        slots = torch.full((table.shape[0],), -1, device=place)
        slots[ids] = torch.arange(len(ids), device=table.device)
        module.__class__ = fused
        module.register_buffer("ids", ids, persistent=False)
        module.register_buffer("slots", slots, persistent=False)


def outside_weights(task: Any) -> list[Tensor]:
    """Return weights of a task that are read outside of the forward of the module that holds them.

    Those are the head's matrix, which the task reads, and rows of new tokens with their tables.
    """
    layers: list[Any] = [one for one in task.modules() if isinstance(one, TokenRows)]
    found: list[Tensor] = [one for layer in layers for one in layer.parameters()]
    if not any(one in layers for one in task.head.modules()):
        found.append(task.head_weight)
    return list({id(one): one for one in found}.values())
