"""What preparation accepts but says: cut answers, control tokens in the data, no end token."""

from __future__ import annotations

from collections.abc import Iterator

from finetune_trainer.encode import Encoder
from finetune_trainer.prepared_splits import Prepared
from finetune_trainer.snapshot import Snapshot
from finetune_trainer.split import TRAIN

CUT_ANSWERS_WORTH_A_WARNING = 0.01


def preparation_warnings(
    snapshot: Snapshot, encoder: Encoder, prepared: Prepared
) -> Iterator[tuple[str, str]]:
    """Yield reason and message of everything that deserves attention."""
    account = prepared.accounts[TRAIN]
    cut = account.cuts["answer"]
    if cut > CUT_ANSWERS_WORTH_A_WARNING * max(account.samples, 1):
        yield (
            "AnswersCut",
            f"{cut:,} of {account.samples:,} answers are cut at {prepared.max_length} tokens and "
            f"have no end token; {account.lengths[-1]} tokens fit all",
        )
    spelled = _with_special_tokens(snapshot, encoder)
    if spelled:
        yield (
            "SpecialTokenInText",
            f"{spelled:,} records contain text that equals a control token of the tokenizer; "
            "remove it from the data",
        )
    if account.without_end - cut > 0:
        yield (
            "NoEndToken",
            f"template {encoder.template.name} puts no end token behind answers; the model will "
            "not learn to stop",
        )


def _with_special_tokens(snapshot: Snapshot, encoder: Encoder) -> int:
    tokens = [token for token in encoder.tokenizer.special.all if len(token) > 2]
    found = 0
    for rows in snapshot.splits.values():
        for row in range(len(rows)):
            texts = [rows.systems[row] or "", rows.texts[row] or ""]
            texts += [turn["content"] for turn in rows.turns[row] or ()]
            found += any(token in text for text in texts for token in tokens)
    return found
