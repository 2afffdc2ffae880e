"""Turns the records of a snapshot into samples that fit, with the account of what it took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil

from finetune_api.training_settings import Overflow
from finetune_trainer.chat_template import Message
from finetune_trainer.dataset_statistics import quantile
from finetune_trainer.encode import Encoder, Rendering, Sample
from finetune_trainer.errors import DataError
from finetune_trainer.snapshot import Rows
from finetune_trainer.truncation import Cut, cut_end, fitted

CHUNK = 2000
FIRST_ROWS = 5
CUTS = ("turns", "user", "system", "answer")


@dataclass(frozen=True)
class Encoded:
    """One sample before the length limit, and what is needed to make it again, shorter."""

    row: int
    sample: Sample
    messages: tuple[Message, ...]
    """messages are empty for documents."""


@dataclass
class Account:
    """What the length limit and the checks did to a split."""

    split: str = "train"
    samples: int = 0
    above: int = 0
    tokens: int = 0
    lost_tokens: int = 0
    cuts: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    rows: list[int] = field(default_factory=list)
    """rows are the first records above the limit, counted from 1."""
    adjusted: int = 0
    without_end: int = 0
    lengths: list[int] = field(default_factory=list)
    """lengths of all samples before the limit, sorted."""

    @property
    def lost_share(self) -> float:
        """Return the share of tokens that the limit took."""
        return self.lost_tokens / self.tokens if self.tokens else 0.0


def encoded_records(rows: Rows, encoder: Encoder, system: str | None) -> list[Encoded]:
    """Return the samples of all records, as long as they are."""
    found: list[Encoded] = []
    for start in range(0, len(rows), CHUNK):
        end = min(start + CHUNK, len(rows))
        found += _encoded(rows, range(start, end), encoder, system)
    return found


def messages_of(rows: Rows, row: int, system: str | None) -> tuple[Message, ...]:
    """Return a record as messages; `system` stands in where the record has no system text."""
    text = rows.systems[row] or system
    head: tuple[Message, ...] = ({"role": "system", "content": text},) if text else ()
    return (*head, *rows.turns[row])


def automatic_limit(lengths: Sequence[int], share: float, context: int | None) -> int:
    """Return the quantile of sorted lengths, rounded up to 64, at most the model's context."""
    limit = max(64, 64 * ceil(quantile(lengths, share) / 64))
    return min(limit, context) if context else limit


def fitting_samples(
    split: str, found: Sequence[Encoded], encoder: Encoder, limit: int, overflow: Overflow
) -> tuple[list[tuple[int, Sample]], Account]:
    """Return (row, sample) of everything that is trained on, in order, and the account.

    Raises DataError (TooLong) for samples above the limit where the policy is Fail.
    """
    account = Account(split, lengths=sorted(len(one.sample.ids) for one in found))
    kept = []
    for one in found:
        account.tokens += len(one.sample.ids)
        account.adjusted += one.sample.adjusted
        sample = _limited(one, encoder, limit, overflow, account)
        if sample is None:
            continue
        if not sample.supervised:
            account.dropped["NothingSupervised"] += 1
            continue
        account.without_end += not sample.ends
        kept.append((one.row, sample))
    account.samples = len(kept)
    if overflow == Overflow.FAIL and account.above:
        raise DataError(_too_long(account, limit), reason="TooLong")
    return kept, account


def _limited(
    one: Encoded, encoder: Encoder, limit: int, overflow: Overflow, account: Account
) -> Sample | None:
    length = len(one.sample.ids)
    if length <= limit:
        return one.sample
    account.above += 1
    if len(account.rows) < FIRST_ROWS:
        account.rows.append(one.row + 1)
    if overflow == Overflow.DROP:
        account.dropped["TooLong"] += 1
        account.lost_tokens += length
        return None
    if overflow == Overflow.FAIL:
        return one.sample
    if one.messages:
        sample, cut = fitted(encoder, one.messages, limit)
    else:
        sample, cut = cut_end(one.sample, limit), Cut(answer=True, tokens=length - limit)
    account.lost_tokens += cut.tokens
    account.cuts.update(
        name for name in ("turns", "user", "system", "answer") if getattr(cut, name)
    )
    return sample


def _encoded(
    rows: Rows, places: Sequence[int], encoder: Encoder, system: str | None
) -> list[Encoded]:
    renderings: list[Rendering] = []
    origins: list[tuple[int, tuple[Message, ...]]] = []
    for row in places:
        if rows.texts[row] is not None:
            renderings.append(encoder.document(rows.texts[row]))
            origins.append((row, ()))
            continue
        messages = messages_of(rows, row, system)
        found = encoder.renderings(messages)
        renderings += found
        origins += [(row, _seen(messages, found, number)) for number in range(len(found))]
    samples = encoder.encoded(renderings)
    return [
        Encoded(row, sample, messages)
        for (row, messages), sample in zip(origins, samples, strict=True)
    ]


def _seen(
    messages: tuple[Message, ...], found: Sequence[Rendering], number: int
) -> tuple[Message, ...]:
    """Return the messages up to the answer of one of several renderings of a conversation."""
    if len(found) == 1:
        return messages
    answers = [at for at, one in enumerate(messages) if one["role"] == "assistant"]
    return messages[: answers[len(answers) - len(found) + number] + 1]


def _too_long(account: Account, limit: int) -> str:
    rows = ", ".join(map(str, account.rows))
    return (
        f"TooLong: {account.split}, {account.above:,} samples exceed {limit} tokens (first rows: "
        f"{rows}); 99 % fit in {quantile(account.lengths, 0.99)}. Expected: samples within the "
        "limit. Fix: raise tokenizer.maxLength or set tokenizer.overflow."
    )
