"""The files of a preparation: token caches, prompts, template, account of what was cut.

Layout of a cache folder: `tokens.bin` uint32 ids back to back, `flags.bin` one byte per token,
`offsets.bin` int64 borders, one more than samples, `rows.bin` uint32 rows of the split. Where
exchanges may be left out: `turns.bin` int64 pairs of first token and role, `groups.bin` uint32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.dataset_statistics import histogram
from finetune_trainer.sample_limits import Account
from finetune_trainer.snapshot import Rows
from finetune_trainer.split import TRAIN
from finetune_trainer.store import FileEntry, Store, canonical_json
from finetune_trainer.token_spool import SpooledSamples

FORMAT = "prepared/v1"
"""Format of the manifest, written last."""


def write_cache(
    store: Store, split: str, samples: SpooledSamples, account: Account, rows: Rows | None = None
) -> list[FileEntry]:
    """Write the token cache of one split and return its entries.

    `rows` are given where turns are needed: their groups say which samples are of one tree.
    """
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(samples.lengths)])
    contents: dict[str, bytes | Iterable[bytes]] = {
        "tokens.bin": _bytes(samples.tokens(), "<u4"),
        "flags.bin": _bytes(samples.flags(), "u1"),
        "offsets.bin": offsets.astype("<i8").tobytes(),
        "rows.bin": samples.table["row"].astype("<u4").tobytes(),
        "index.json": canonical_json(_index(samples, account)),
    }
    if rows is not None:
        contents["turns.bin"] = _bytes(samples.turns(), "<i8")
        contents["groups.bin"] = groups_of(rows, samples).astype("<u4").tobytes()
    return [store.write(f"tokens/{split}/{name}", content) for name, content in contents.items()]


def write_accounts(
    store: Store, accounts: dict[str, Account], limit: int, main: str = TRAIN
) -> FileEntry:
    """Write truncation.json: the numbers of the split that counts on top, every split's below."""
    splits = {split: told(account, limit) for split, account in accounts.items()}
    return store.write(
        "truncation.json", canonical_json({**splits[main], "version": 1, "splits": splits})
    )


def told(account: Account, limit: int) -> dict[str, Any]:
    """Return an account as JSON."""
    return {
        "limit": limit,
        "samples": account.samples,
        "aboveLimit": account.above,
        "turnsRemoved": account.cuts["turns"],
        "userCut": account.cuts["user"],
        "systemCut": account.cuts["system"],
        "answerCut": account.cuts["answer"],
        "windows": account.windows,
        "repeatedSamples": account.repeated,
        "droppedTooLong": account.dropped["TooLong"],
        "droppedNothingSupervised": account.dropped["NothingSupervised"],
        "tokens": account.tokens,
        "lostTokens": account.lost_tokens,
        "lostShare": round(account.lost_share, 6),
        "boundaryAdjusted": account.adjusted,
        "answersWithoutEnd": account.without_end,
        **{f"p{int(100 * share)}": account.length_of(share) for share in (0.5, 0.9, 0.95, 0.99)},
        "max": account.length_of(1),
    }


def _bytes(arrays: Iterable[NDArray[Any]], dtype: str) -> Iterator[bytes]:
    for array in arrays:
        yield array.astype(dtype, copy=False).tobytes()


def groups_of(rows: Rows, samples: SpooledSamples) -> NDArray[np.int64]:
    """Return the number of every sample's tree, by first appearance."""
    numbers: dict[str, int] = {}
    groups = getattr(rows, "groups", ()) or rows.ids
    found = [numbers.setdefault(group, len(numbers)) for group in groups]
    numbered: NDArray[np.int64] = np.array(found, np.int64)[samples.table["row"]]
    return numbered


def _index(samples: SpooledSamples, account: Account) -> dict[str, Any]:
    tokens, supervised = int(samples.lengths.sum()), int(samples.supervised.sum())
    drawn = histogram("Samples", "tokens", samples.lengths.tolist())
    return {
        "version": 1,
        "samples": len(samples),
        "tokens": tokens,
        "supervised": supervised,
        "supervisedShare": round(supervised / tokens, 6) if tokens else 0.0,
        "dropped": dict(account.dropped),
        "truncated": dict(account.cuts),
        "lengths": {"edges": drawn.edges, "counts": drawn.counts, "max": drawn.max},
    }
