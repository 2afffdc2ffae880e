"""Reads the token cache that preparation wrote: verified copy on scratch, memory maps, lengths."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
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
CONTENT = 2
"""Bit 1: text of a turn, never a marker or special token; augmentation may mask it."""
PIECE = 4_000_000
"""Tokens of the memory map that are looked at at once."""


@dataclass(frozen=True)
class TokenCache:
    """The samples of one split, back to back. `rows` are record numbers in the split."""

    tokens: NDArray[np.uint32]
    flags: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    rows: NDArray[np.uint32]
    turns: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    """turns are rows of (token position, role), as `encode` numbers roles; none in documents."""
    groups: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))
    """groups number the conversation tree of every sample; empty = each is its own."""
    sources: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    """sources are the numbers of the samples' sources, where these have weights."""
    weights: tuple[float, ...] = ()
    """weights of the sources in an epoch; empty = every sample once."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, epoch: int) -> TokenCache:  # noqa: ARG002 - every epoch has the same samples
        """Return the samples of an epoch."""
        return self

    def sample(self, number: int) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
        """Return a sample's token ids and flags; its first token has no label."""
        span = slice(int(self.offsets[number]), int(self.offsets[number + 1]))
        flags = self.flags[span].copy()
        flags[0] &= ~np.uint8(SUPERVISED)
        return self.tokens[span], flags

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each sample."""
        return np.diff(self.offsets)

    @cached_property
    def supervised(self) -> NDArray[np.int64]:
        """Supervised rows of each sample: its first token is predicted by nobody."""
        return supervised_rows(self, self.offsets[:-1], self.offsets[1:])


def supervised_rows(
    cache: TokenCache,
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    hidden: Callable[[int, int], NDArray[np.bool_]] | None = None,
) -> NDArray[np.int64]:
    """Return the supervised rows of spans that follow each other, most of them not empty.

    `hidden(start, end)` tells which tokens of a range lose their label. Works through the memory
    map in pieces of some million tokens, so that no array as long as the cache is ever held.
    """
    rows = np.zeros(len(starts), np.int64)
    first = 0
    while first < len(starts):
        end = max(first + 1, int(np.searchsorted(ends, starts[first] + PIECE, "right")))
        low, high = int(starts[first]), int(ends[end - 1])
        flags = cache.flags[low:high] & SUPERVISED
        if hidden is not None:
            flags[hidden(low, high)] = 0
        openings = slice(*np.searchsorted(cache.offsets, (low, high)))
        flags[cache.offsets[openings] - low] = 0
        filled = first + np.flatnonzero(starts[first:end] < ends[first:end])
        if len(filled):
            rows[filled] = np.add.reduceat(flags, starts[filled] - low, dtype=np.int64)
        first = end
    return rows


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
            turns=_optional(folder / "turns.bin", np.int64).reshape(-1, 2),
            groups=_optional(folder / "groups.bin", np.uint32),
            sources=_optional(folder / "sources.bin", np.uint8),
            weights=tuple(_json(folder / "sources.json").get("weights", ())),
        )
    except (OSError, ValueError) as error:
        raise DataError(f"token cache {folder.name}: cannot be read; prepare again") from error
    if not (
        len(cache.offsets)
        and cache.offsets[0] == 0
        and cache.offsets[-1] == len(cache.tokens) == len(cache.flags)
        and len(cache.rows) == len(cache)
        and len(cache.groups) in (0, len(cache))
        and len(cache.sources) == (len(cache) if cache.weights else 0)
        and bool(np.all(np.diff(cache.offsets) > 0))
    ):
        raise DataError(f"token cache {folder.name}: its files do not fit together; prepare again")
    return cache


def open_prompts(folder: Path) -> list[dict[str, Any]]:
    """Return the prompts for sample answers: `id`, `tokens`, `text`, `reference`."""
    prompts: list[dict[str, Any]] = _json(folder / "prompts.json").get("prompts", [])
    return prompts


def stop_tokens(folder: Path) -> list[int]:
    """Return the ids that end an answer in the template preparation used."""
    stop: list[int] = _json(folder / "prompts.json").get("stop", [])
    return stop


def stop_texts(folder: Path) -> list[str]:
    """Return the texts that end an answer in that template, such as its markers."""
    path = folder / "template.json"
    content: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
    stops: list[str] = content.get("stops", [])
    return stops


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
    return content


def _optional(path: Path, dtype: type[np.generic]) -> NDArray[Any]:
    return np.fromfile(path, dtype) if path.exists() else np.zeros(0, dtype)


def _mapped(path: Path, dtype: type[np.generic]) -> NDArray[Any]:
    if path.stat().st_size == 0:
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, "r")
