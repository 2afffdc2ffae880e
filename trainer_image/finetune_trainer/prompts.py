"""The prompts that are answered before and after training, as token ids, with their references."""

from __future__ import annotations

from typing import Any

from finetune_trainer.encode import Encoder
from finetune_trainer.prepared_samples import messages_of
from finetune_trainer.record import short_hash
from finetune_trainer.snapshot import Rows
from finetune_trainer.truncation import fitted_prompt

DOCUMENT_START = 32
"""Tokens of a document that serve as its prompt."""


def sample_prompts(
    rows: Rows, encoder: Encoder, system: str | None, count: int, limit: int
) -> list[dict[str, Any]]:
    """Return `count` prompts in an order that only the records' ids decide.

    Each has `id`, `tokens` (at most `limit`), `text` for people and the `reference` answer.
    """
    order = sorted(range(len(rows)), key=lambda row: short_hash("prompt", rows.ids[row]))
    return [_prompt(rows, row, encoder, system, limit) for row in order[:count]]


def stop_ids(encoder: Encoder) -> list[int]:
    """Return the ids that end an answer: the end token, and what the template puts behind one."""
    behind = encoder.tokenizer.ids(encoder.answer_end().strip())
    end = encoder.tokenizer.backend.token_to_id(encoder.tokenizer.special.end)
    # Several ids spell an end in plain text; none of them alone would mean it.
    texts = [behind, *(encoder.tokenizer.ids(text) for text in encoder.template.stops)]
    single = {ids[0] for ids in texts if len(ids) == 1}
    return sorted(single | ({end} if end is not None else set()))


def _prompt(
    rows: Rows, row: int, encoder: Encoder, system: str | None, limit: int
) -> dict[str, Any]:
    if rows.texts[row] is not None:
        return _opening(rows, row, encoder, limit)
    messages = messages_of(rows, row, system)
    answers = [at for at, one in enumerate(messages) if one["role"] == "assistant"]
    before = messages[: answers[-1]]
    users = [one["content"] for one in before if one["role"] == "user"]
    return {
        "id": rows.ids[row],
        "tokens": fitted_prompt(encoder, before, limit),
        "text": users[-1] if users else "",
        "reference": messages[answers[-1]]["content"],
    }


def _opening(rows: Rows, row: int, encoder: Encoder, limit: int) -> dict[str, Any]:
    """Return the first tokens of a document as prompt and the following ones as reference."""
    rendering = encoder.document(rows.texts[row])
    ids = encoder.tokenizer.ids(rendering.text)
    cut = max(1, min(DOCUMENT_START, len(ids) // 2, limit))
    return {
        "id": rows.ids[row],
        "tokens": ids[:cut],
        "text": encoder.tokenizer.decode(ids[:cut]),
        "reference": encoder.tokenizer.decode(ids[cut : 4 * cut]),
    }
