"""Shapes, lengths and random weights of the GPU benchmark; `tiny` runs anywhere, to try it out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from finetune_trainer.token_cache import TokenCache

SHAPES: dict[str, dict[str, int]] = {
    "8b": {
        "vocab_size": 128_256,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "3b": {
        "vocab_size": 128_256,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
    },
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}
CONTEXT = 8192
CHAT = {64: 10, 128: 18, 256: 27, 384: 18, 512: 11, 768: 8, 1024: 5, 1536: 2, 2048: 1}
"""Samples in a hundred by their length in tokens: many short answers, few long talks; mean 387."""
SUPERVISED = 0.6
"""Share of a sample, at its end, that is an answer."""


def random_model_folder(folder: Path, shape: str) -> Path:
    """Save a model with normal weights drawn on the device, bfloat16.

    Not zeros: products of zeros draw less power and run faster than any real model.
    """
    sizes: dict[str, Any] = dict(SHAPES[shape])
    # Without special tokens: none of the ids means anything here.
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    config = LlamaConfig(**sizes, **special, max_position_embeddings=CONTEXT, dtype="bfloat16")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    torch.manual_seed(1)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder)
    return folder


def chat_lengths(count: int) -> list[int]:
    """Return lengths that hold the shares of `CHAT` whatever the number, shuffled by a seed."""
    shares = np.array(list(CHAT.values())) / sum(CHAT.values())
    ends = np.cumsum(shares)
    places = np.searchsorted(ends, (np.arange(count) + 0.5) / count)
    lengths = np.array(list(CHAT))[places]
    shuffled: list[int] = np.random.default_rng(1).permutation(lengths).tolist()
    return shuffled


def random_samples(lengths: Sequence[int], vocabulary: int) -> TokenCache:
    """Return samples of those lengths with random tokens; each has an answer at its end."""
    tokens = np.random.default_rng(2).integers(0, vocabulary, sum(lengths), dtype=np.uint32)
    flags = [np.arange(length) >= (1 - SUPERVISED) * length for length in lengths]
    return TokenCache(
        tokens=tokens,
        flags=np.concatenate(flags).astype(np.uint8),
        offsets=np.cumsum([0, *lengths]).astype(np.int64),
        rows=np.arange(len(lengths), dtype=np.uint32),
    )


def matrix_rate(size: int = 8192, repeats: int = 30) -> float:
    """Return the FLOP/s of plain bfloat16 products here and now: the ceiling of any model."""
    one = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    for _ in range(3):
        one @ one
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        one @ one
    end.record()
    torch.cuda.synchronize()
    return repeats * 2 * size**3 / (start.elapsed_time(end) / 1e3)


if __name__ == "__main__":
    random_model_folder(Path(sys.argv[1]), sys.argv[2])
