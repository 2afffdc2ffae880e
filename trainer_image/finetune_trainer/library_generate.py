"""Answers by transformers' own `generate`: beam search, and models without a common cache."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from finetune_trainer.answer_batches import context_tokens
from finetune_trainer.answer_end import Answer, AnswerEnd
from finetune_trainer.decoding import Decoding, Prompt
from finetune_trainer.plan import GENERATE, mix


class _Beat(StoppingCriteria):  # type: ignore[misc] # untyped in transformers
    """Shows that the process is alive; never stops anything."""

    def __init__(self, beat: Callable[[], None]) -> None:
        self._beat = beat

    def __call__(self, input_ids: torch.Tensor, _scores: Any, **_: Any) -> torch.Tensor:
        self._beat()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def library_answers(
    causal: Any,
    prompts: Sequence[Prompt],
    decoding: Decoding,
    end: AnswerEnd,
    beat: Callable[[], None],
) -> dict[str, Answer]:
    """Return the answers of prompts, one at a time: nothing of another row is in a search.

    The library draws from the global stream and penalises padding, so a batch would change
    answers. A stop text cuts the finished answer; the search itself does not see it.
    """
    answers = {}
    for prompt in prompts:
        started = time.monotonic()
        tokens = _answered(causal, prompt, decoding, beat)
        room = max(0, context_tokens(causal.config) - len(prompt.tokens))
        seconds = time.monotonic() - started
        # Fewer tokens than asked for without an end token: the time limit ended the search.
        found = end.of(tokens, 0, room, seconds) or end.of(tokens, 0, len(tokens), 0.0)
        assert found is not None  # noqa: S101 - a limit of its own length ends any answer
        answers[prompt.id] = found
    return answers


def _answered(
    causal: Any, prompt: Prompt, decoding: Decoding, beat: Callable[[], None]
) -> list[int]:
    ids = torch.tensor([prompt.tokens], device=next(causal.parameters()).device)
    devices = [ids.device] if ids.is_cuda else []
    own = causal.generation_config
    # The library fills what is left open from the model's own settings; the spec's count alone.
    causal.generation_config = GenerationConfig()
    try:
        with torch.random.fork_rng(devices):
            torch.manual_seed(mix(decoding.seed, GENERATE, zlib.crc32(prompt.id.encode())))
            output = causal.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=_settings(causal, prompt, decoding),
                stopping_criteria=StoppingCriteriaList([_Beat(beat)]),
            )
    finally:
        causal.generation_config = own
    tokens: list[int] = output[0, ids.shape[1] :].tolist()
    return tokens


def _settings(causal: Any, prompt: Prompt, decoding: Decoding) -> GenerationConfig:
    room = context_tokens(causal.config) - len(prompt.tokens)
    chosen: dict[str, Any] = {
        "max_new_tokens": max(1, min(decoding.max_new_tokens, room)),
        "min_new_tokens": decoding.min_new_tokens or None,
        "max_time": float(decoding.max_time_seconds) or None,
        "num_beams": decoding.num_beams,
        "repetition_penalty": decoding.repetition_penalty,
        "do_sample": decoding.do_sample,
        "eos_token_id": sorted(decoding.stop) or None,
        "pad_token_id": 0,
    }
    if decoding.do_sample:
        chosen |= {
            "temperature": decoding.temperature,
            "top_k": decoding.top_k or 0,
            "top_p": decoding.top_p or 1.0,
            "min_p": decoding.min_p,
        }
    return GenerationConfig(**chosen)
