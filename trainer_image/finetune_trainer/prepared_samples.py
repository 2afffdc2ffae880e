"""Turns the records of a split into samples as long as they are, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from finetune_trainer.chat_template import Message
from finetune_trainer.dataset_statistics import quantile
from finetune_trainer.encode import Encoder
from finetune_trainer.rendering import Rendering
from finetune_trainer.snapshot import Rows
from finetune_trainer.token_spool import Entry, Table, TokenSpool
from finetune_trainer.truncation import Cut, Limits, fitted

CHUNK = 1000
"""Records that are Python objects at a time."""


@dataclass(frozen=True)
class SplitSource:
    """The records of one split and how they become samples."""

    split: str
    rows: Rows
    encoder: Encoder
    system: str | None = None
    """system stands in where a record has no system text."""
    documents: bool = False

    def entries(self, start: int, end: int) -> Iterator[Entry]:
        """Yield the samples of some records, as long as they are."""
        batch = batch_of(self.rows, start, end)
        found = [self._renderings(batch, row) for row in range(len(batch))]
        samples = self.encoder.encoded([one for each in found for one in each])
        for row, each in enumerate(found):
            for number in range(len(each)):
                yield Entry(start + row, next(samples), number, len(each))

    def fitted(self, above: Table, limits: Limits) -> Iterator[tuple[Entry, Cut]]:
        """Yield samples of conversations again, cut to the limits; `above` is in row order."""
        for start in range(0, len(self.rows), CHUNK):
            low, high = np.searchsorted(above["row"], (start, start + CHUNK))
            if low == high:
                continue
            batch = batch_of(self.rows, start, start + CHUNK)
            for one in above[low:high]:
                messages = self._messages(batch, one, start)
                sample, cut = fitted(self.encoder, messages, limits, int(one["length"]))
                yield Entry(int(one["row"]), sample, int(one["number"]), int(one["of"])), cut

    def _renderings(self, batch: Rows, row: int) -> Sequence[Rendering]:
        if self.documents:
            return [self.encoder.document(batch.texts[row])]
        return self.encoder.renderings(messages_of(batch, row, self.system))

    def _messages(self, batch: Rows, one: Any, start: int) -> tuple[Message, ...]:
        """Return the messages up to the answer of one of several renderings of a conversation."""
        messages = messages_of(batch, int(one["row"]) - start, self.system)
        if one["of"] == 1:
            return messages
        return messages[: self.encoder.renderings(messages)[int(one["number"])].length]


def batch_of(rows: Rows, start: int, end: int) -> Rows:
    """Return some rows of a split."""
    place = slice(start, end)
    return Rows(rows.ids[place], rows.systems[place], rows.turns[place], rows.texts[place])


def messages_of(rows: Rows, row: int, system: str | None) -> tuple[Message, ...]:
    """Return a record as messages; `system` stands in where the record has no system text."""
    text = rows.systems[row] or system
    head: tuple[Message, ...] = ({"role": "system", "content": text},) if text else ()
    return (*head, *rows.turns[row])


def automatic_limit(lengths: Sequence[int], share: float, context: int | None) -> int:
    """Return the quantile of sorted lengths, rounded up to 64, at most the model's context."""
    limit = max(64, 64 * ceil(quantile(lengths, share) / 64))
    return min(limit, context) if context else limit


def spooled_samples(source: SplitSource, folder: Path) -> Iterator[tuple[int, TokenSpool]]:
    """Encode all records of a split into a spool; yield it with the number of records so far."""
    folder.mkdir()
    spool = TokenSpool(folder, 0)
    yield 0, spool
    for start in range(0, len(source.rows), CHUNK):
        end = min(start + CHUNK, len(source.rows))
        spool.add(list(source.entries(start, end)))
        yield end, spool
