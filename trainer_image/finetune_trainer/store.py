"""Opens the place where results lie, and proves that what lies there is whole.

A folder of results exists when its `manifest.json`, written last, names every file with size and
digest; without one it is a leftover that nobody reads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from finetune_trainer.errors import ConfigurationError, DataError
from finetune_trainer.mounts import claim_folder
from finetune_trainer.path_store import PathStore
from finetune_trainer.store_protocol import (
    CHUNK_BYTES,
    FileEntry,
    Hashed,
    Store,
    checked_name,
    chunks_of,
)

if TYPE_CHECKING:
    from finetune_api.storage import Location

MANIFEST = "manifest.json"

__all__ = [
    "DamagedError",
    "FileEntry",
    "Manifest",
    "Store",
    "download_verified",
    "free_folder",
    "open_store",
    "read_manifest",
    "store_at",
    "verified_stream",
    "verify",
    "write_manifest",
]


class DamagedError(DataError):
    """Stored files are missing or differ from their manifest."""

    reason = "DigestMismatch"


@dataclass(frozen=True)
class Manifest:
    """The list of files that makes a folder of results exist."""

    format: str
    files: tuple[FileEntry, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""
    """digest is `sha256:` and the SHA-256 of the manifest's own bytes."""

    def entry(self, name: str) -> FileEntry:
        """Return the entry of one file; raise DamagedError when the manifest has none."""
        for entry in self.files:
            if entry.name == name:
                return entry
        raise DamagedError(f"{MANIFEST} ({self.format}) names no file {name}; write it again")


def open_store(location: Location, prefix: str = "") -> Store:
    """Return the store of `prefix` below the location of a `storage` block."""
    store: Store
    if location.s3 is not None:
        # boto3 takes a second to import; jobs on volumes do not pay for it.
        from finetune_trainer.s3_store import s3_store  # noqa: PLC0415

        store = s3_store(location.s3)
    elif location.volume_claim is not None:
        claim, path = location.volume_claim.claim_name, location.volume_claim.path or ""
        folder = claim_folder(claim)
        if path:
            folder = folder / checked_name(path.rstrip("/"))
        store = PathStore(folder, f"pvc://{claim}/{path}")
    else:
        raise ConfigurationError("storage: no volumeClaim and no s3; set one of them")
    return store.child(prefix) if prefix else store


def store_at(location: Location, uri: str) -> Store:
    """Return the store of an address below a location; raise ConfigurationError for another."""
    root = open_store(location)
    if uri != root.uri and not uri.startswith(f"{root.uri}/"):
        raise ConfigurationError(f"{uri}: lies outside of {root.uri}; the storage was changed")
    inside = uri[len(root.uri) :].strip("/")
    return root.child(inside) if inside else root


def free_folder(store: Store, name: str) -> Store:
    """Return the store of `name`, or of `name.1`, `name.2`, … when a killed pod left files there.

    Nothing is ever written twice, so a pod that runs again in the same attempt starts beside them.
    """
    number = 0
    while True:
        folder = f"{name}.{number}" if number else name
        if not store.list(f"{folder}/"):
            return store.child(folder)
        number += 1


def canonical_json(value: Any) -> bytes:
    """Return JSON whose bytes depend on the value alone."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return text.encode() + b"\n"


def write_manifest(store: Store, format: str, files: Iterable[FileEntry], **facts: Any) -> str:  # noqa: A002
    """Write the last file of a folder of results and return its digest, `sha256:…`."""
    entries = [vars(entry) for entry in sorted(files, key=lambda entry: entry.name)]
    content = canonical_json({"format": format, "files": entries, "facts": facts})
    store.write(MANIFEST, content)
    return _digest(content)


def read_manifest(store: Store) -> Manifest:
    """Return the manifest of a folder of results; raise DamagedError when it cannot be read."""
    try:
        content = store.read(MANIFEST)
    except FileNotFoundError as error:
        raise DamagedError(f"{store.uri}: {MANIFEST} is missing; write the folder again") from error
    try:
        value = json.loads(content)
        files = tuple(
            FileEntry(checked_name(file["name"]), int(file["bytes"]), str(file["sha256"]))
            for file in value["files"]
        )
        return Manifest(str(value["format"]), files, dict(value["facts"]), _digest(content))
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{store.uri}: {MANIFEST} is damaged; write the folder again") from error


def verify(store: Store, manifest: Manifest) -> None:
    """Read every file of the manifest; raise DamagedError that names the first wrong one."""
    for entry in manifest.files:
        with _opened(store, entry) as stream:
            hashed = Hashed(chunks_of(stream))
            for _ in hashed:
                pass
        _compare(store, entry, hashed.entry(entry.name))


class VerifiedStream:
    """A file that is read forward only; `finish` compares all of it with its entry."""

    def __init__(self, stream: BinaryIO, store: Store, entry: FileEntry) -> None:
        self._stream, self._store, self._entry = stream, store, entry
        self._hash, self._bytes = hashlib.sha256(), 0

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes; fewer at the end alone."""
        content = self._stream.read(size)
        self._hash.update(content)
        self._bytes += len(content)
        if len(content) < size and self._bytes < self._entry.bytes:
            raise DamagedError(f"{self._store.uri}/{self._entry.name}: ends too early")
        return content

    def seekable(self) -> bool:
        """Return False: every byte counts."""
        return False

    def finish(self) -> None:
        """Read the rest; raise DamagedError where size or digest differ."""
        while self.read(CHUNK_BYTES):
            pass
        found = FileEntry(self._entry.name, self._bytes, self._hash.hexdigest())
        _compare(self._store, self._entry, found)


@contextmanager
def verified_stream(store: Store, entry: FileEntry) -> Iterator[VerifiedStream]:
    """Open a file of a manifest; raise DamagedError when it is missing."""
    with _opened(store, entry) as stream:
        yield VerifiedStream(stream, store, entry)


def download_verified(
    store: Store, manifest: Manifest, folder: Path, names: Iterable[str] | None = None
) -> None:
    """Copy files of the manifest (all, or `names`) to `folder`, checking size and digest."""
    for entry in manifest.files if names is None else [manifest.entry(name) for name in names]:
        target = folder / entry.name
        try:
            store.download(entry.name, target)
        except FileNotFoundError as error:
            raise _missing(store, entry) from error
        with target.open("rb") as stream:
            hashed = Hashed(chunks_of(stream))
            for _ in hashed:
                pass
        _compare(store, entry, hashed.entry(entry.name))


def _opened(store: Store, entry: FileEntry) -> BinaryIO:
    try:
        return store.open(entry.name)
    except FileNotFoundError as error:
        raise _missing(store, entry) from error


def _missing(store: Store, entry: FileEntry) -> DamagedError:
    return DamagedError(f"{store.uri}/{entry.name}: missing, but its manifest names it")


def _compare(store: Store, expected: FileEntry, found: FileEntry) -> None:
    where = f"{store.uri}/{expected.name}"
    if found.bytes != expected.bytes:
        raise DamagedError(
            f"{where}: has {found.bytes} bytes, its manifest says {expected.bytes}; it is damaged"
        )
    if found.sha256 != expected.sha256:
        raise DamagedError(
            f"{where}: content is sha256:{found.sha256[:12]}…, its manifest says "
            f"sha256:{expected.sha256[:12]}…; it is damaged"
        )


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
