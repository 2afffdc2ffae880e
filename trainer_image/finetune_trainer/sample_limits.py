"""Makes the samples of a split fit their limits, by the policy, with an account of what it took."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetune_api.text_settings import Overflow
from finetune_trainer.encode import SUPERVISED
from finetune_trainer.errors import DataError
from finetune_trainer.prepared_samples import CHUNK, SplitSource
from finetune_trainer.token_spool import Entry, SpooledSamples, Table, TokenSpool
from finetune_trainer.truncation import Limits

FIRST_ROWS = 5
CUTS = ("turns", "user", "system", "answer")


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
    control: int = 0
    """control counts samples in which the text of a turn spells a special token."""
    repeated: int = 0
    """repeated counts samples beyond one per record: the template rewrites earlier turns."""
    windows: int = 0
    """windows counts the samples into which documents above the limit were cut."""
    lengths: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """lengths of all samples before the limit, sorted."""

    @property
    def lost_share(self) -> float:
        """Return the share of tokens that the limit took."""
        return self.lost_tokens / self.tokens if self.tokens else 0.0

    def length_of(self, share: float) -> int:
        """Return the length that this share of the samples does not exceed; 0 without samples."""
        count = len(self.lengths)
        return int(self.lengths[max(1, ceil(share * count)) - 1]) if count else 0


@dataclass(frozen=True)
class SampleLimits:
    """The limits of a run and what happens to samples above them."""

    limits: Limits
    overflow: Overflow

    def fitting(
        self, source: SplitSource, raw: TokenSpool, folder: Path
    ) -> tuple[SpooledSamples, Account]:
        """Return everything that is trained on, in order, and the account.

        Raises DataError (TooLong) for samples above a limit where the policy is Fail.
        """
        table = raw.table()
        above = self._above(table)
        account = _account(source.split, table, above)
        spools = [raw, TokenSpool(folder, 1)]
        if self.overflow == Overflow.FAIL and above.any():
            raise DataError(_too_long(account, self.limits.whole), reason="TooLong")
        if self.overflow == Overflow.DROP:
            account.dropped["TooLong"] += account.above
            account.lost_tokens += int(table["length"][above].sum())
            table = table[~above]
        elif self.overflow == Overflow.WINDOW:
            table = _windows(table, above, raw, self.limits.whole, account)
        elif source.documents:
            table = _heads(table, above, raw, self.limits.whole, account)
        else:
            table = self._truncated(source, table, above, spools[1], account)
        trained = table["supervised"] > 0
        if not trained.all():
            account.dropped["NothingSupervised"] += int(np.count_nonzero(~trained))
            table = table[trained]
        account.samples = len(table)
        account.without_end = int(np.count_nonzero(~table["ends"]))
        return SpooledSamples(spools, table), account

    def _above(self, table: Table) -> NDArray[np.bool_]:
        above: NDArray[np.bool_] = table["length"] > self.limits.whole
        for name in ("prompt", "answer"):
            most = getattr(self.limits, name)
            if most is not None:
                above |= table["context" if name == "prompt" else "answer"] > most
        return above

    def _truncated(
        self,
        source: SplitSource,
        table: Table,
        above: NDArray[np.bool_],
        spool: TokenSpool,
        account: Account,
    ) -> Table:
        """Put shorter samples in the place of conversations above a limit."""
        batch: list[Entry] = []
        kept = np.ones(len(table), bool)
        places = np.flatnonzero(above)
        for place, (entry, cut) in zip(
            places, source.fitted(table[above], self.limits), strict=True
        ):
            kept[place] = cut.fits
            account.lost_tokens += cut.tokens if cut.fits else int(table["length"][place])
            if cut.fits:
                account.cuts.update(name for name in CUTS if getattr(cut, name))
                batch.append(entry)
            else:
                account.dropped["TooLong"] += 1
            if len(batch) == CHUNK:
                spool.add(batch)
                batch = []
        spool.add(batch)
        table[places[kept[places]]] = spool.table()
        return table[kept]


def _account(split: str, table: Table, above: NDArray[np.bool_]) -> Account:
    return Account(
        split,
        above=int(np.count_nonzero(above)),
        tokens=int(table["length"].sum()),
        rows=(table["row"][above][:FIRST_ROWS] + 1).tolist(),
        adjusted=int(np.count_nonzero(table["adjusted"])),
        control=int(np.count_nonzero(table["control"])),
        repeated=int(np.count_nonzero(table["number"])),
        lengths=np.sort(table["length"]),
    )


def _windows(
    table: Table, above: NDArray[np.bool_], raw: TokenSpool, size: int, account: Account
) -> Table:
    """Cut documents into windows that overlap by one token: each token is predicted once."""
    pieces: list[Table] = []
    behind = 0
    for place in np.flatnonzero(above).tolist():
        whole = table[place : place + 1]
        start, length = int(whole["start"][0]), int(whole["length"][0])
        windows = np.repeat(whole, len(range(0, length - 1, size - 1)))
        for number, first in enumerate(range(0, length - 1, size - 1)):
            part = windows[number : number + 1]
            _set_part(part, raw, start + first, min(size, length - first))
        account.windows += len(windows)
        pieces += [table[behind:place], windows]
        behind = place + 1
    return np.concatenate([*pieces, table[behind:]])


def _heads(
    table: Table, above: NDArray[np.bool_], raw: TokenSpool, size: int, account: Account
) -> Table:
    """Keep the beginning of every document; it has no end token any more."""
    account.lost_tokens += int((table["length"][above] - size).sum())
    account.cuts["answer"] += account.above
    for place in np.flatnonzero(above).tolist():
        _set_part(table[place : place + 1], raw, int(table["start"][place]), size)
    table["ends"][above] = False
    return table


def _set_part(one: Table, raw: TokenSpool, start: int, length: int) -> None:
    flags = raw.flags[start + 1 : start + length]
    one["start"], one["length"] = start, length
    one["supervised"] = np.count_nonzero(flags & SUPERVISED)


def _too_long(account: Account, limit: int) -> str:
    rows = ", ".join(map(str, account.rows))
    return (
        f"TooLong: {account.split}, {account.above:,} samples exceed {limit} tokens (first rows: "
        f"{rows}); 99 % fit in {account.length_of(0.99)}. Expected: samples within the "
        "limit. Fix: raise tokenizer.maxLength or set tokenizer.overflow."
    )
