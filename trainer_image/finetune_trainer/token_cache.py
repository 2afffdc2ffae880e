"""Reads the token cache that preparation wrote: verified copy on scratch, memory maps, lengths."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.errors import DataError
from finetune_trainer.store import Store, download_verified, read_manifest

FORMAT = "prepared/v1"
SUPERVISED = 1
"""Bit 0 of a token's flags: its prediction counts in the loss."""


@dataclass(frozen=True)
class TokenCache:
    """The samples of one split, back to back. `rows` are record numbers in the snapshot."""

    tokens: NDArray[np.uint32]
    flags: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    rows: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each sample."""
        return np.diff(self.offsets)

    @cached_property
    def supervised(self) -> NDArray[np.int64]:
        """Supervised rows of each sample: its first token is predicted by nobody."""
        counted = np.concatenate([[0], np.cumsum(self.flags & SUPERVISED, dtype=np.int64)])
        supervised: NDArray[np.int64] = counted[self.offsets[1:]] - counted[self.offsets[:-1] + 1]
        return supervised


def fetch_prepared(store: Store, digest: str, folder: Path) -> Path:
    """Copy a preparation's output to local disk and return its folder.

    Every digest is checked on the way and nothing is mapped from the volume itself, which may be
    a network file system. Raises DataError when a file is missing or damaged.
    """
    manifest = read_manifest(store)
    if manifest.format != FORMAT or (digest and manifest.digest != digest):
        raise DataError(
            f"{store.uri}: holds {manifest.format} {manifest.digest}, expected {FORMAT} {digest}; "
            "restore it, or rerun the experiment to prepare again",
            reason="DigestMismatch",
        )
    download_verified(store, manifest, folder)
    return folder


def open_cache(folder: Path) -> TokenCache:
    """Map a split's files; raise DataError when they do not fit together."""
    try:
        cache = TokenCache(
            tokens=_mapped(folder / "tokens.bin", np.uint32),
            flags=_mapped(folder / "flags.bin", np.uint8),
            offsets=np.fromfile(folder / "offsets.bin", np.int64),
            rows=_mapped(folder / "rows.bin", np.uint32),
        )
    except (OSError, ValueError) as error:
        raise DataError(f"token cache {folder.name}: cannot be read; prepare again") from error
    if not (
        len(cache.offsets)
        and cache.offsets[0] == 0
        and cache.offsets[-1] == len(cache.tokens) == len(cache.flags)
        and len(cache.rows) == len(cache)
        and bool(np.all(np.diff(cache.offsets) > 0))
    ):
        raise DataError(f"token cache {folder.name}: its files do not fit together; prepare again")
    return cache


def open_prompts(folder: Path) -> list[dict[str, Any]]:
    """Return the prompts for sample answers: `id`, `tokens`, `text`, `reference`."""
    prompts: list[dict[str, Any]] = _prompt_file(folder).get("prompts", [])
    return prompts


def stop_tokens(folder: Path) -> list[int]:
    """Return the ids that end an answer in the template preparation used."""
    stop: list[int] = _prompt_file(folder).get("stop", [])
    return stop


def _prompt_file(folder: Path) -> dict[str, Any]:
    path = folder / "prompts.json"
    content: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
    return content


def _mapped(path: Path, dtype: type[np.generic]) -> NDArray[Any]:
    if path.stat().st_size == 0:
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, "r")
