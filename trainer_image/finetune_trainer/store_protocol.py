"""What a place for results can do: write each name once, read, list, delete; nothing else.

No method renames, appends, truncates, rewrites or locks: object stores and volumes mounted from
them cannot do it, and a reader must never meet half a file under a name it trusts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class FileEntry:
    """One written file: its name below the store, its size and its SHA-256 in hexadecimal."""

    name: str
    bytes: int
    sha256: str


class Store(Protocol):
    """A folder of write-once files on a volume or below a prefix of a bucket."""

    @property
    def uri(self) -> str:
        """Where the store lies, as `pvc://claim/path` or `s3://bucket/prefix`."""

    def child(self, path: str) -> Store:
        """Return the store of a folder below this one."""

    def write(self, name: str, data: bytes | Iterable[bytes]) -> FileEntry:
        """Write one new file, sequentially; raise FileExistsError when the name is taken."""

    def read(self, name: str) -> bytes:
        """Return a whole file; raise FileNotFoundError when there is none."""

    def open(self, name: str) -> BinaryIO:
        """Return a stream of a file; raise FileNotFoundError when there is none."""

    def list(self, prefix: str = "") -> list[str]:
        """Return the sorted names of all files, however deep, that begin with `prefix`."""

    def exists(self, name: str) -> bool:
        """Tell whether a file of this name can be read."""

    def delete(self, name: str) -> None:
        """Remove a file; a missing one is no error."""

    def download(self, name: str, target: Path) -> None:
        """Copy a file to local disk, making the folders it needs."""


class Hashed:
    """An iterator over chunks that counts and hashes what passes."""

    def __init__(self, data: bytes | Iterable[bytes]) -> None:
        self._chunks = [data] if isinstance(data, bytes) else data
        self._hash = hashlib.sha256()
        self._bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self._hash.update(chunk)
            self._bytes += len(chunk)
            yield chunk

    def entry(self, name: str) -> FileEntry:
        """Return the entry of everything that has passed so far."""
        return FileEntry(name=name, bytes=self._bytes, sha256=self._hash.hexdigest())


def checked_name(name: str) -> str:
    """Return `name`, or raise ValueError when it could leave the store."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or str(path) != name or "\0" in name:
        raise ValueError(f"{name!r} is not a plain relative path; use names such as a/b.json")
    return name


def chunks_of(stream: BinaryIO) -> Iterator[bytes]:
    """Yield a stream in chunks of `CHUNK_BYTES` bytes."""
    while chunk := stream.read(CHUNK_BYTES):
        yield chunk
