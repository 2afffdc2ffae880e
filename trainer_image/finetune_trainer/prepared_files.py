"""The files of a preparation: token caches, prompts, template, account of what was cut.

Layout of a cache folder: `tokens.bin` uint32 ids back to back, `flags.bin` one byte per token,
`offsets.bin` int64 borders, one more than samples, `rows.bin` uint32 rows of the snapshot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune_trainer.dataset_statistics import histogram, quantile
from finetune_trainer.encode import Sample
from finetune_trainer.prepared_samples import Account
from finetune_trainer.store import FileEntry, Store, canonical_json

FORMAT = "prepared/v1"
"""Format of the manifest, written last."""


def write_cache(
    store: Store, split: str, samples: Sequence[tuple[int, Sample]], account: Account
) -> list[FileEntry]:
    """Write the token cache of one split and return its entries."""
    lengths = np.array([len(sample.ids) for _, sample in samples], np.int64)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    tokens = [np.array(sample.ids, "<u4") for _, sample in samples] or [np.zeros(0, "<u4")]
    flags = b"".join(sample.flags for _, sample in samples)
    rows = np.array([row for row, _ in samples], "<u4")
    contents = {
        "tokens.bin": np.concatenate(tokens).tobytes(),
        "flags.bin": flags,
        "offsets.bin": offsets.astype("<i8").tobytes(),
        "rows.bin": rows.tobytes(),
        "index.json": canonical_json(_index(samples, account)),
    }
    return [store.write(f"tokens/{split}/{name}", content) for name, content in contents.items()]


def write_accounts(store: Store, accounts: dict[str, Account], limit: int) -> FileEntry:
    """Write truncation.json: the training split's numbers on top, every split's below."""
    splits = {split: told(account, limit) for split, account in accounts.items()}
    return store.write(
        "truncation.json", canonical_json({**splits["train"], "version": 1, "splits": splits})
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
        "droppedTooLong": account.dropped["TooLong"],
        "droppedNothingSupervised": account.dropped["NothingSupervised"],
        "tokens": account.tokens,
        "lostTokens": account.lost_tokens,
        "lostShare": round(account.lost_share, 6),
        "boundaryAdjusted": account.adjusted,
        "answersWithoutEnd": account.without_end,
        **{
            f"p{int(100 * share)}": quantile(account.lengths, share)
            for share in (0.5, 0.9, 0.95, 0.99)
        },
        "max": account.lengths[-1] if account.lengths else 0,
    }


def _index(samples: Sequence[tuple[int, Sample]], account: Account) -> dict[str, Any]:
    lengths = [len(sample.ids) for _, sample in samples]
    tokens = sum(lengths)
    supervised = sum(sample.supervised for _, sample in samples)
    drawn = histogram("Samples", "tokens", lengths)
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
