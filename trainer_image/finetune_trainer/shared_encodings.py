"""Encoded records that the runs of a namespace share: every split is tokenised once.

Shared are samples before any limit of length, so runs with other limits share them, too. What
another run left and cannot be read is passed over: a run can always tokenise itself.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_trainer.encoding_key import encoder_facts, encoding_key
from finetune_trainer.encoding_places import pointers, target
from finetune_trainer.errors import TrainerError
from finetune_trainer.store import (
    DamagedError,
    FileEntry,
    Store,
    download_verified,
    free_folder,
    open_store,
    read_manifest,
    write_manifest,
)
from finetune_trainer.token_spool import TokenSpool

if TYPE_CHECKING:
    from finetune_api.run_config import PreparationConfig
    from finetune_trainer.encode import Encoder
    from finetune_trainer.prepared_samples import SplitSource

log = logging.getLogger("finetune_trainer")

FORMAT = "encoded/v1"
FAULTS = (TrainerError, OSError, ValueError)
"""What reading and writing of optional files can raise; programming errors are not among them."""


@dataclass(frozen=True)
class Unshared:
    """A split that this run encoded itself, and the pointers that did not help."""

    split: str
    key: str
    spool: TokenSpool
    useless: frozenset[str]


@dataclass(frozen=True)
class SharedEncodings:
    """The encodings of a namespace at one location, as one run finds and keeps them."""

    namespace: Store
    experiment: str
    """experiment is the name of the run's own folder."""
    attempt: str
    facts: dict[str, Any]
    """facts are those of the run's encoder."""
    unshared: list[Unshared] = field(default_factory=list)

    @classmethod
    def of(cls, config: PreparationConfig, encoder: Encoder) -> SharedEncodings:
        """Return the encodings that a preparation may use, beside its own folder."""
        namespace, _, experiment = config.prefix.rpartition("/")
        attempt = f"{config.identity.revision}-{config.identity.attempt}"
        store = open_store(config.location, namespace)
        return cls(store, experiment, attempt, encoder_facts(encoder))

    def spool(self, source: SplitSource, folder: Path, own: Iterator[TokenSpool]) -> TokenSpool:
        """Return the samples of a split, in `folder`: what a run kept, else the last of `own`."""
        if not len(source.rows):
            return _last(own)
        key = encoding_key(source, self.facts)
        known = self._pointers(key)
        for pointer in known:
            with _passed_over(pointer):
                spool = self._fetched(pointer, key, folder)
                _tell(source, 0, f", encoded by {target(pointer)}")
                return spool
            shutil.rmtree(folder, ignore_errors=True)
        spool = _last(own)
        _tell(source, len(source.rows))
        self.unshared.append(Unshared(source.split, key, spool, frozenset(known)))
        return spool

    def keep(self) -> None:
        """Keep for other runs what this one encoded, unless one of them was quicker."""
        for one in self.unshared:
            if one.useless.issuperset(self._pointers(one.key)):
                with _passed_over(f"encodings of {one.split}"):
                    self._keep(one)

    def _pointers(self, key: str) -> list[str]:
        with _passed_over(key):
            return [name for name in self.namespace.list(pointers(key)) if target(name)]
        return []

    def _fetched(self, pointer: str, key: str, folder: Path) -> TokenSpool:
        store = self.namespace.child(target(pointer) or "")
        manifest = read_manifest(store)
        told = self.namespace.read(pointer).decode()
        if (manifest.format, manifest.facts.get("key"), manifest.digest) != (FORMAT, key, told):
            raise DamagedError(f"{store.uri}: is not what its pointer says")
        download_verified(store, manifest, folder, TokenSpool.FILES)
        return TokenSpool.of_files(folder)

    def _keep(self, one: Unshared) -> None:
        own = self.namespace.child(self.experiment)
        store = free_folder(own, f"encoded-{self.attempt}-{one.split}")
        entries: list[FileEntry] = []
        try:
            for name, content in one.spool.files():
                entries.append(store.write(name, content))
        except FAULTS:
            for entry in entries:  # leave the room to what the run cannot do without
                store.delete(entry.name)
            raise
        digest = write_manifest(store, FORMAT, entries, key=one.key)
        place = f"{self.experiment}/{store.uri.rpartition('/')[2]}"
        self.namespace.write(f"{pointers(one.key)}{place}", digest.encode())


def _last(spools: Iterator[TokenSpool]) -> TokenSpool:
    *_, last = spools
    return last


def _tell(source: SplitSource, tokenised: int, how: str = "") -> None:
    log.info("%s: tokenised %d of %d records%s", source.split, tokenised, len(source.rows), how)


@contextmanager
def _passed_over(what: str) -> Iterator[None]:
    """Log what goes wrong with files that a run can do without."""
    try:
        yield
    except FAULTS as error:
        log.warning("%s: passed over: %s", what, error)
