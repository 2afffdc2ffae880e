"""Finds what another job stored: by its address below a location, proven by its digest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune_trainer.errors import ConfigurationError, DataError
from finetune_trainer.store import Manifest, Store, open_store, read_manifest

if TYPE_CHECKING:
    from finetune_api.storage import Location


def stored_at(location: Location, uri: str) -> Store:
    """Return the store of an address below a location."""
    root = open_store(location)
    if uri != root.uri and not uri.startswith(f"{root.uri}/"):
        raise ConfigurationError(f"{uri}: lies outside of {root.uri}; the storage was changed")
    inside = uri[len(root.uri) :].strip("/")
    return root.child(inside) if inside else root


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
