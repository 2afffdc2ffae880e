"""Keys and values of the rows being answered, in buffers that grow by blocks.

The library's own layer makes a new tensor for every token: at long answers that copying costs as
much as the arithmetic.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

BLOCK = 64
"""Tokens a buffer grows by."""


class BlockLayer(DynamicLayer):  # type: ignore[misc] # untyped in transformers
    """One layer, [rows, heads, tokens, head size]; `keys` and `values` show what is held."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> Any:
        """Append the new tokens; return views of all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._buffers: tuple[Tensor, Tensor] | None = None
        held = self.get_seq_length()
        end = held + key_states.shape[-2]
        if self._buffers is None or end > self._buffers[0].shape[-2]:
            self._buffers = (
                _larger(self.keys, key_states, end),
                _larger(self.values, value_states, end),
            )
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, held:end] = states
        self._show(end)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only some rows."""
        if self.is_initialized and self._buffers is not None:
            held = self.get_seq_length()
            self._buffers = self._buffers[0][indices], self._buffers[1][indices]
            self._show(held)

    def _show(self, end: int) -> None:
        assert self._buffers is not None  # noqa: S101 - for mypy
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)


def answer_cache(config: Any) -> Any:
    """Return an empty cache; layers that hold more than all keys and values stay the library's."""
    cache = DynamicCache(config=config)
    cache.layers = [BlockLayer() if type(one) is DynamicLayer else one for one in cache.layers]
    return cache


def _larger(held: Tensor, states: Tensor, end: int) -> Tensor:
    """Return a buffer with room for `end` tokens and some more, filled with what is held."""
    rows, heads, _, size = states.shape
    buffer = torch.empty(rows, heads, end + BLOCK, size, dtype=states.dtype, device=states.device)
    if held.numel():
        buffer[:, :, : held.shape[-2]] = held
    return buffer
