"""What a source hands over: local copies of its files, counted, hashed and unpacked."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from finetune_api.dataset_sources import Source
from finetune_api.storage import Hub
from finetune_trainer.errors import AccessError, DataError, ResourcesExhaustedError
from finetune_trainer.formats import EXTENSIONS, format_of
from finetune_trainer.path_store import FULL
from finetune_trainer.store_protocol import FileEntry, Hashed, chunks_of


@dataclass(frozen=True)
class FetchedFile:
    """One file of a source on local disk."""

    entry: FileEntry
    """entry has the name, size and digest as fetched."""
    path: Path
    """path holds the content, unpacked."""
    split: str | None = None
    """split is train, validation or test where the source's own structure says so."""


@dataclass(frozen=True)
class Fetched:
    """Everything a source gave."""

    files: tuple[FetchedFile, ...]
    revision: str | None = None

    @property
    def digest(self) -> str:
        """Return the digest of the only file, or of the list of names and digests."""
        if len(self.files) == 1:
            return f"sha256:{self.files[0].entry.sha256}"
        lines = sorted(f"{file.entry.sha256}  {file.entry.name}\n" for file in self.files)
        return f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"


@dataclass
class Desk:
    """Where a source puts its files, and what it may reach and how much it may bring."""

    folder: Path
    max_bytes: int
    hub: Hub = field(default_factory=Hub)
    allowed: Collection[str] = ()
    """allowed are host names that may have a private address."""
    used_bytes: int = 0

    def keep(self, name: str, stream: BinaryIO, split: str | None = None) -> FetchedFile:
        """Copy a stream to local disk under limits; a name that ends in .gz is unpacked."""
        place = self.folder / f"{len(list(self.folder.iterdir()))}-{PurePosixPath(name).name}"
        hashed = Hashed(chunks_of(stream))
        try:
            with place.open("wb") as sink:
                for chunk in hashed:
                    self._count(len(chunk), name)
                    sink.write(chunk)
            path = self._unpacked(place, name)
        except OSError as error:
            raise _disk_error(error, name) from error
        return FetchedFile(entry=hashed.entry(name), path=path, split=split)

    def _unpacked(self, packed: Path, name: str) -> Path:
        if not name.lower().endswith(".gz"):
            return packed
        plain = packed.with_suffix(".unpacked")
        try:
            with gzip.open(packed) as stream, plain.open("wb") as sink:
                for chunk in chunks_of(cast("BinaryIO", stream)):
                    self._count(len(chunk), name)
                    sink.write(chunk)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(
                f"ParseError: {name} is not a whole gzip file. Fix: compress it again.",
                reason="ParseError",
            ) from error
        packed.unlink()
        return plain

    def _count(self, size: int, name: str) -> None:
        self.used_bytes += size
        if self.used_bytes > self.max_bytes:
            raise DataError(
                f"{name}: the sources are larger than limits.maxSize ({self.max_bytes:,} bytes); "
                "raise it or choose fewer files",
                reason="TooLarge",
            )


def chosen(names: Iterable[str], source: Source) -> list[str]:
    """Return the data files of a folder: by include and exclude, else by their extensions."""
    plain = [name for name in sorted(names) if not _hidden(name)]
    if source.include:
        plain = [name for name in plain if _matches(name, source.include)]
    elif source.format == "Auto":
        plain = [name for name in plain if format_of(name)]
    return [name for name in plain if not _matches(name, source.exclude or ())]


def nothing_found(what: str, near: str, known: Sequence[str]) -> AccessError:
    """Return the finding that a source does not exist, with the nearest names that do."""
    nearest = get_close_matches(near, known, n=3, cutoff=0.4)
    hint = f"; nearest: {', '.join(nearest)}" if nearest else ""
    return AccessError(
        f"SourceNotFound: {what}: not found. Expected: an existing file or folder with data files "
        f"({', '.join(EXTENSIONS)}). Fix: correct the name{hint}.",
        reason="SourceNotFound",
    )


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "_")) for part in PurePosixPath(name).parts)


def _matches(name: str, globs: Iterable[str]) -> bool:
    return any(fnmatch(name, glob) or fnmatch(PurePosixPath(name).name, glob) for glob in globs)


def _disk_error(error: OSError, name: str) -> Exception:
    if error.errno in FULL:
        return ResourcesExhaustedError(
            f"{name}: no space left on the scratch disk; raise storage.scratchSize",
            reason="NoSpace",
        )
    return error
