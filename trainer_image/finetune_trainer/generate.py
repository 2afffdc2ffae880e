"""Answers prompts in left-padded batches with a cache; each row ends on its own.

The host looks at the rows once in several tokens, so a GPU hardly waits for it; finished rows
leave the batch whenever half of it is gone. Adapters act through their own forward, as in
training: no merged copy of the weights is made.
"""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from finetune_trainer.answer_batches import batches, context_tokens, room, row_bytes
from finetune_trainer.answer_cache import answer_cache
from finetune_trainer.answer_end import Answer, AnswerEnd
from finetune_trainer.decoding import Decoding, Prompt
from finetune_trainer.library_generate import library_answers
from finetune_trainer.token_choice import next_tokens, seen_tokens, without

LOOK = 8
"""Tokens between two looks of the host."""


@torch.no_grad()
def generate(
    model: nn.Module,
    prompts: Sequence[Prompt],
    decoding: Decoding,
    *,
    end: AnswerEnd | None = None,
    rows: int | None = None,
    beat: Callable[[], None] = lambda: None,
) -> dict[str, Answer]:
    """Return the answer of every prompt by its id; `rows` overrides what memory would allow.

    Batch and order change an answer by rounding at most: random numbers belong to the prompt and
    every row has its own end.
    """
    end = end or AnswerEnd(decoding)
    answers: dict[str, Answer] = {}
    with cached_attention(model) as causal:
        first = next(causal.parameters())
        need = row_bytes(causal.config.get_text_config(), first.element_size())
        limits = room(first.device) if rows is None else (sys.maxsize, rows)
        for batch in batches(prompts, decoding, need, *limits):
            if _is_for_the_library(causal, decoding):
                answers |= library_answers(causal, batch, decoding, end, beat)
            else:
                answers |= _answers(causal, batch, decoding, end, beat)
    return answers


def _answers(
    causal: Any,
    prompts: Sequence[Prompt],
    decoding: Decoding,
    end: AnswerEnd,
    beat: Callable[[], None],
) -> dict[str, Answer]:
    started, limit = time.monotonic(), context_tokens(causal.config)
    batch = _Batch(causal, prompts, decoding)
    texts: dict[str, list[int]] = {prompt.id: [] for prompt in prompts}
    answers: dict[str, Answer] = {}
    while batch.prompts:
        known = batch.count
        fresh = batch.take(max(1, min(LOOK, decoding.max_new_tokens - known)), beat)
        seconds = time.monotonic() - started
        for prompt, new in zip(batch.prompts, fresh, strict=True):
            if prompt.id in answers:
                continue
            row = texts[prompt.id]
            row += new
            left = max(0, limit - len(prompt.tokens))
            if (answer := end.of(row, known, left, seconds)) is not None:
                answers[prompt.id] = answer
        going = [i for i, prompt in enumerate(batch.prompts) if prompt.id not in answers]
        # Selecting copies the cache: at powers of two it costs less than it saves.
        if 2 * len(going) <= len(batch.prompts):
            batch.keep(going)
    return answers


class _Batch:
    """Rows that are answered together; all have equally many new tokens."""

    def __init__(self, causal: Any, prompts: Sequence[Prompt], decoding: Decoding) -> None:
        self._causal, self._decoding, self.prompts = causal, decoding, list(prompts)
        self._device = next(causal.parameters()).device
        self._tokens, self._mask = _left_padded(prompts, self._device)
        self._positions = (self._mask.cumsum(1) - 1).clamp(min=0)
        self._cache = answer_cache(causal.config)
        self._last, self.count = context_tokens(causal.config) - 1, 0
        self._stop = torch.tensor(sorted(decoding.stop), dtype=torch.int64, device=self._device)
        self._seen: Tensor | None = None
        if decoding.repetition_penalty != 1.0:
            vocabulary = causal.get_output_embeddings().weight.shape[0]
            self._seen = seen_tokens(self._tokens, self._mask, vocabulary)

    def take(self, count: int, beat: Callable[[], None]) -> list[list[int]]:
        """Return the next `count` tokens of every row; the host waits once."""
        uniforms = self._uniforms(count)
        taken = []
        for number in range(count):
            beat()
            taken.append(self._next(None if uniforms is None else uniforms[:, number]))
            self.count += 1
        rows: list[list[int]] = torch.stack(taken, 1).tolist()
        return rows

    def keep(self, places: list[int]) -> None:
        """Leave all other rows out."""
        self.prompts = [self.prompts[place] for place in places]
        if not places:
            return
        chosen = torch.tensor(places, device=self._device)
        self._cache.batch_select_indices(chosen)
        self._tokens, self._mask = self._tokens[chosen], self._mask[chosen]
        self._positions = self._positions[chosen]
        self._seen = None if self._seen is None else self._seen[chosen]

    def _next(self, uniforms: Tensor | None) -> Tensor:
        output = self._causal(
            input_ids=self._tokens,
            attention_mask=self._mask,
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits = output.logits[:, -1]
        if self.count < self._decoding.min_new_tokens:
            logits = without(logits, self._stop)
        chosen = next_tokens(logits, self._decoding, seen_BV=self._seen, uniforms_B=uniforms)
        self._tokens = chosen[:, None]
        self._mask = torch.cat((self._mask, self._mask.new_ones(len(chosen), 1)), 1)
        # A row that has ended may run on for a while: never past the last position there is.
        self._positions = (self._positions[:, -1:] + 1).clamp(max=self._last)
        if self._seen is not None:
            self._seen.scatter_(1, self._tokens, value=True)
        return chosen

    def _uniforms(self, count: int) -> Tensor | None:
        if not self._decoding.do_sample:
            return None
        drawn = [self._decoding.uniforms(prompt, self.count, count) for prompt in self.prompts]
        return torch.tensor(drawn, dtype=torch.float32).to(self._device, non_blocking=True)


def _left_padded(prompts: Sequence[Prompt], device: torch.device) -> tuple[Tensor, Tensor]:
    longest = max(len(prompt.tokens) for prompt in prompts)
    tokens = torch.zeros(len(prompts), longest, dtype=torch.int64)
    mask = torch.zeros(len(prompts), longest, dtype=torch.int64)
    for number, prompt in enumerate(prompts):
        tokens[number, longest - len(prompt.tokens) :] = torch.tensor(prompt.tokens)
        mask[number, longest - len(prompt.tokens) :] = 1
    return tokens.to(device), mask.to(device)


def _is_for_the_library(causal: Any, decoding: Decoding) -> bool:
    """Tell whether beams are asked for, or a cache of another kind than keys and values is."""
    known = "past_key_values" in inspect.signature(causal.forward).parameters
    return decoding.num_beams > 1 or not known or bool(getattr(causal, "_is_stateful", False))


@contextmanager
def cached_attention(model: nn.Module) -> Iterator[Any]:
    """Give the model attention that knows masks and a cache, and its own back afterwards."""
    causal: Any = model
    causal = causal.get_base_model() if hasattr(model, "peft_config") else causal
    training, before = causal.training, causal.config._attn_implementation
    capped = getattr(causal.config.get_text_config(), "attn_logit_softcapping", None)
    # Only the library's own names know masks; sdpa would leave a soft cap out.
    own = before in ("sdpa", "eager")
    causal.set_attn_implementation(before if own else "eager" if capped else "sdpa")
    causal.eval()
    try:
        yield causal
    finally:
        causal.set_attn_implementation(before)
        causal.train(training)
