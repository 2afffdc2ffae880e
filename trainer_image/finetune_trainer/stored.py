"""Finds what another job stored, proven by its digest."""

from __future__ import annotations

from finetune_trainer.errors import DataError
from finetune_trainer.store import Manifest, Store, read_manifest


def pinned(store: Store, digest: str) -> Manifest:
    """Return the manifest of a folder; raise DataError (DigestMismatch) for another one."""
    manifest = read_manifest(store)
    if manifest.digest != digest:
        raise DataError(
            f"{store.uri}: its manifest is {manifest.digest[:19]}…, recorded was {digest[:19]}…; "
            "restore it, or run the experiment again",
            reason="DigestMismatch",
        )
    return manifest
