"""What preparation accepts but says: cut answers, control tokens in the data, no end token."""

from __future__ import annotations

from collections.abc import Iterator

from finetune_trainer.prepared_splits import Prepared
from finetune_trainer.split import TRAIN

CUT_ANSWERS_WORTH_A_WARNING = 0.01


def preparation_warnings(template: str, prepared: Prepared) -> Iterator[tuple[str, str]]:
    """Yield reason and message of everything that deserves attention."""
    account = prepared.accounts[TRAIN]
    cut = account.cuts["answer"]
    if cut > CUT_ANSWERS_WORTH_A_WARNING * max(account.samples, 1):
        yield (
            "AnswersCut",
            f"{cut:,} of {account.samples:,} answers are cut at {prepared.max_length} tokens and "
            f"have no end token; {account.length_of(1)} tokens fit all",
        )
    spelled = sum(one.control for one in prepared.accounts.values())
    if spelled:
        yield (
            "SpecialTokenInText",
            f"{spelled:,} records contain text that equals a control token of the tokenizer; "
            "remove it from the data",
        )
    if account.without_end - cut > 0:
        yield (
            "NoEndToken",
            f"template {template} puts no end token behind answers; the model will not learn to "
            "stop",
        )
    if account.repeated:
        yield (
            "TurnsRewritten",
            f"template {template} rewrites earlier turns; every answer became a sample of its own, "
            f"{account.repeated:,} more than there are records",
        )
