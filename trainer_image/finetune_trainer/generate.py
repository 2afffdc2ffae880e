"""Answers prompts in left-padded batches with a cache; each row ends on its own."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from finetune_trainer.plan import GENERATE, mix
from finetune_trainer.segments import SEGMENTS

BATCH = 32


@dataclass(frozen=True)
class Prompt:
    """A prompt as token ids; its random numbers belong to `id`, not to its place in a batch."""

    id: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Decoding:
    """How the next token is chosen and when a row ends."""

    max_new_tokens: int
    stop: frozenset[int]
    seed: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0


@torch.no_grad()
def generate(
    model: nn.Module,
    prompts: Sequence[Prompt],
    decoding: Decoding,
    beat: Callable[[], None] = lambda: None,
) -> dict[str, list[int]]:
    """Return the new tokens of every prompt by its id, without the token that ended it."""
    by_length = sorted(prompts, key=lambda prompt: (len(prompt.tokens), prompt.id))
    answers: dict[str, list[int]] = {}
    with _cached_attention(model) as causal:
        for start in range(0, len(by_length), BATCH):
            batch = by_length[start : start + BATCH]
            rows = _batch(causal, batch, decoding, beat)
            answers |= {prompt.id: row for prompt, row in zip(batch, rows, strict=True)}
    return answers


def _batch(
    causal: Any, prompts: Sequence[Prompt], decoding: Decoding, beat: Callable[[], None]
) -> list[list[int]]:
    device = next(causal.parameters()).device
    longest = max(len(prompt.tokens) for prompt in prompts)
    room = getattr(causal.config, "max_position_embeddings", 1 << 30) - longest
    tokens, mask = _left_padded(prompts, longest, device)
    generators = [_generator(decoding, prompt) for prompt in prompts]
    rows: list[list[int]] = [[] for _ in prompts]
    going, cache = set(range(len(prompts))), None
    for _ in range(max(0, min(decoding.max_new_tokens, room))):
        beat()
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        output = causal(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = output.past_key_values
        chosen = _choose(output.logits[:, -1].float().cpu(), decoding, generators)
        for number in sorted(going):
            if chosen[number] in decoding.stop:
                going.discard(number)
            else:
                rows[number].append(chosen[number])
        if not going:
            break
        tokens = torch.tensor(chosen, device=device)[:, None]
        mask = torch.cat((mask, mask.new_ones(len(prompts), 1)), 1)
    return rows


def _choose(logits: Tensor, decoding: Decoding, generators: Sequence[torch.Generator]) -> list[int]:
    if not decoding.do_sample:
        greedy: list[int] = logits.argmax(-1).tolist()
        return greedy
    shares = (logits / decoding.temperature).softmax(-1)
    ordered, ids = shares.sort(-1, descending=True)
    # A token is kept while those before it hold less than top_p; the first always is.
    ordered[ordered.cumsum(-1) - ordered >= decoding.top_p] = 0
    drawn = [
        int(torch.multinomial(row, 1, generator=generator))
        for row, generator in zip(ordered, generators, strict=True)
    ]
    return [int(ids[number, place]) for number, place in enumerate(drawn)]


def _generator(decoding: Decoding, prompt: Prompt) -> torch.Generator:
    stream = mix(decoding.seed, GENERATE, zlib.crc32(prompt.id.encode()))
    return torch.Generator().manual_seed(stream)


def _left_padded(
    prompts: Sequence[Prompt], longest: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    tokens = torch.zeros(len(prompts), longest, dtype=torch.int64)
    mask = torch.zeros(len(prompts), longest, dtype=torch.int64)
    for number, prompt in enumerate(prompts):
        tokens[number, longest - len(prompt.tokens) :] = torch.tensor(prompt.tokens)
        mask[number, longest - len(prompt.tokens) :] = 1
    return tokens.to(device), mask.to(device)


@contextmanager
def _cached_attention(model: nn.Module) -> Iterator[Any]:
    """Give the model attention that knows masks and a cache, and its own back afterwards."""
    causal: Any = model
    causal = causal.get_base_model() if hasattr(model, "peft_config") else causal
    training, before = causal.training, causal.config._attn_implementation
    causal.set_attn_implementation("sdpa" if before == SEGMENTS else before)
    causal.eval()
    try:
        yield causal
    finally:
        causal.set_attn_implementation(before)
        causal.train(training)
