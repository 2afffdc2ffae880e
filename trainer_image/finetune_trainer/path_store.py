"""A store in a folder: a local disk, a network file system, or a bucket mounted through FUSE."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from finetune_trainer.errors import ResourcesExhaustedError
from finetune_trainer.store_protocol import FileEntry, Hashed, checked_name, chunks_of

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTCONN, errno.ESTALE}
NO_FSYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EOPNOTSUPP}


class PathStore:
    """Files below one folder; every write creates a new file and closes it once."""

    def __init__(self, folder: Path, uri: str) -> None:
        self._folder, self._uri = folder, uri.rstrip("/")

    @property
    def uri(self) -> str:
        """Where the store lies."""
        return self._uri

    def child(self, path: str) -> PathStore:
        """Return the store of a folder below this one."""
        return PathStore(self._folder / checked_name(path), f"{self._uri}/{path}")

    def write(self, name: str, data: bytes | Iterable[bytes]) -> FileEntry:
        """Write one new file, sequentially; raise FileExistsError when the name is taken."""
        path = self._folder / checked_name(name)
        hashed = Hashed(data)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_new(path, hashed)
        except FileExistsError:
            raise
        except OSError as error:
            raise self._translated(error, name) from error
        return hashed.entry(name)

    def read(self, name: str) -> bytes:
        """Return a whole file; raise FileNotFoundError when there is none."""
        with self.open(name) as stream:
            return stream.read()

    def open(self, name: str) -> BinaryIO:
        """Return a stream of a file; raise FileNotFoundError when there is none."""
        try:
            return (self._folder / checked_name(name)).open("rb")
        except OSError as error:
            raise self._translated(error, name) from error

    def list(self, prefix: str = "") -> list[str]:
        """Return the sorted names of all files, however deep, that begin with `prefix`."""
        inside = self._folder / prefix.rpartition("/")[0]
        found = (
            (Path(folder) / file).relative_to(self._folder).as_posix()
            for folder, _, files in os.walk(inside, onerror=self._raise_unless_missing)
            for file in files
        )
        return sorted(name for name in found if name.startswith(prefix))

    def exists(self, name: str) -> bool:
        """Tell whether a file of this name can be read."""
        return (self._folder / checked_name(name)).is_file()

    def delete(self, name: str) -> None:
        """Remove a file, and its folder once that is empty; a missing one is no error."""
        path = self._folder / checked_name(name)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise self._translated(error, name) from error
        with suppress(OSError):
            path.parent.rmdir()

    def download(self, name: str, target: Path) -> None:
        """Copy a file to local disk, making the folders it needs."""
        with self.open(name) as source:
            write_local(target, source)

    def _raise_unless_missing(self, error: OSError) -> None:
        """Make a folder that cannot be listed an error: it must not look empty."""
        if not isinstance(error, FileNotFoundError):
            raise self._translated(error, "") from error

    def _translated(self, error: OSError, name: str) -> Exception:
        where = f"{self._uri}/{name}"
        if error.errno in FULL:
            return ResourcesExhaustedError(
                f"{where}: no space left; enlarge the volume or use another storage",
                reason="NoSpace",
            )
        if error.errno in REFUSED:
            return ResourcesExhaustedError(
                f"{where}: storage answers {os.strerror(error.errno or 0)}; repair the volume or "
                "its permissions",
                reason="StorageUnavailable",
            )
        return error


def write_local(target: Path, source: BinaryIO) -> None:
    """Copy a stream to a file on local disk; raise ResourcesExhaustedError when it is full."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as sink:
            for chunk in chunks_of(source):
                sink.write(chunk)
    except OSError as error:
        if error.errno in FULL:
            raise ResourcesExhaustedError(
                f"{target}: no space left on the scratch disk; raise storage.scratchSize",
                reason="NoSpace",
            ) from error
        raise


def _write_new(path: Path, chunks: Iterable[bytes]) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            for chunk in chunks:
                _write_all(handle, chunk)
            _sync(handle)
        finally:
            # FUSE stores upload on close: its error is the write's error.
            os.close(handle)
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise


def _write_all(handle: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(handle, view) :]


def _sync(handle: int) -> None:
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NO_FSYNC:
            raise
