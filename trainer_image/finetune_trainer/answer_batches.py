"""How many prompts are answered at once: as many as memory holds caches and activations for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from finetune_trainer.decoding import Decoding, Prompt

MOST_ROWS = 256
MOST_ROWS_CPU = 32
"""Beyond about thirty rows a CPU is as busy as it gets; wider batches only wait for their last."""
CPU_BYTES = 1 << 30
SHARE = 0.5
"""Share of the free memory that is planned with: the allocator's slack and the library's copies."""
LOGIT_COPIES = 4


@dataclass(frozen=True)
class RowBytes:
    """Bytes a row needs, from the model's shape."""

    cached: int
    """bytes of a token in the cache of all layers"""
    prefilled: int
    """bytes of a prompt token while the prompt runs through one layer"""
    fixed: int
    """bytes of a row's logits"""

    def of(self, prompt: int, new: int) -> int:
        """Return the bytes of a row of `prompt` tokens and `new` ones."""
        return self.cached * (prompt + new) + self.prefilled * prompt + self.fixed


def row_bytes(config: Any, value_bytes: int) -> RowBytes:
    """Return what a row of a model needs; `config` is the text model's."""
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    return RowBytes(
        cached=2 * config.num_hidden_layers * shared * size * value_bytes,
        prefilled=(4 * config.hidden_size + 2 * heads * size + 3 * inner) * value_bytes,
        fixed=LOGIT_COPIES * 4 * config.vocab_size,
    )


def batches(
    prompts: Sequence[Prompt], decoding: Decoding, row: RowBytes, free: int, most: int
) -> Iterator[list[Prompt]]:
    """Yield prompts of like length together, the longest first: there memory peaks."""
    todo = sorted(prompts, key=lambda prompt: (-len(prompt.tokens), prompt.id))
    while todo:
        need = decoding.num_beams * row.of(len(todo[0].tokens), decoding.max_new_tokens)
        rows = max(1, min(most, int(SHARE * free) // max(1, need)))
        yield todo[:rows]
        todo = todo[rows:]


def room(device: torch.device) -> tuple[int, int]:
    """Return the bytes one may plan with on a device, and the most rows that make sense there."""
    if device.type != "cuda":
        return CPU_BYTES, MOST_ROWS_CPU
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept, MOST_ROWS


def context_tokens(config: Any) -> int:
    """Return how many tokens a model can hold, from its configuration."""
    found: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return found or 1 << 30
