"""Resumable state in storage: write once, manifest last, newest verified, retention.

`checkpoints/attempt-<attempt>.<run>/step-<step>/` below the experiment's folder. The path carries
the attempt and its run, so an old attempt cannot touch a new one's files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from finetune_api.run_outcome import CheckpointRef
from finetune_trainer.errors import (
    ExternalServiceError,
    PeerLostError,
    ResourcesExhaustedError,
    TrainerError,
)
from finetune_trainer.pieces import Piece
from finetune_trainer.store import (
    DamagedError,
    FileEntry,
    Manifest,
    Store,
    read_manifest,
    verify,
    write_manifest,
)
from finetune_trainer.tensor_file import tensor_file
from finetune_trainer.verified_pieces import verified_pieces

FORMAT = "checkpoint/v1"
TRAINABLE, OPTIMIZER = "trainable", "optimizer"
ADAPTER, STATE, NEW_TOKENS = "adapter_config.json", "state.json", "new_tokens.json"
QUARANTINED, MANIFEST = "quarantined.json", "manifest.json"
FOLDER = re.compile(r"checkpoints/attempt-(\d+)\.(\d+)/step-(\d+)/")


@dataclass(frozen=True)
class RunIdentity:
    """Who writes, and what its checkpoints must agree on to be resumed."""

    uid: str
    revision: int
    attempt: int
    plan: str
    run: int = 0


@dataclass(frozen=True)
class Snapshot:
    """What one rank saves, copied to host memory, which training changes no more."""

    step: int
    weights: Sequence[Piece]
    moments: Sequence[Piece]
    state: Mapping[str, Any]
    files: Mapping[str, bytes]
    """files lie beside the tensors, so that others understand them."""
    arrived: Callable[[], None] = lambda: None
    """arrived waits until the copies are complete."""


@dataclass(frozen=True)
class Parts:
    """The other ranks' files of one checkpoint."""

    writers: int = 1
    others: Callable[[], Sequence[FileEntry]] = tuple
    """others waits until they are written and verified, and returns their entries."""


@dataclass(frozen=True, order=True)
class Place:
    """A checkpoint's folder; ordered by step, then by attempt and its run."""

    step: int
    attempt: int
    run: int

    @property
    def path(self) -> str:
        """The folder below the experiment's."""
        return f"checkpoints/attempt-{self.attempt}.{self.run}/step-{self.step}"


@dataclass(frozen=True)
class Restored:
    """A verified checkpoint on its way back into the engine."""

    ref: CheckpointRef
    path: str
    """path of its folder below the experiment's."""
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of one experiment, seen by one run of one attempt."""

    def __init__(self, store: Store, identity: RunIdentity, run: int | None = None) -> None:
        self.store = store
        if run is None:
            # A queue may stop and resume the same Job: its second run writes beside its first.
            taken = [place.run for place in self._places() if place.attempt == identity.attempt]
            run = max(taken, default=-1) + 1
        self.identity = replace(identity, run=run)
        self.quarantined: list[str] = []
        self._written: dict[Place, CheckpointRef] = {}

    def newest(self, known: Iterable[CheckpointRef], step: int | None = None) -> Restored | None:
        """Return the newest whole checkpoint of this plan, or of a step; broken ones are set aside.

        `known` were reported before: the same address with another digest is broken too. Raises
        ExternalServiceError when the storage cannot be read.
        """
        digests = {ref.uri: ref.digest for ref in known}
        try:
            for place in sorted(self._places(complete=True), reverse=True):
                if step not in (None, place.step):
                    continue
                folder = self.store.child(place.path)
                try:
                    restored = self._restored(folder, place, digests)
                except DamagedError as error:
                    self._set_aside(folder, error)
                else:
                    if restored is not None:
                        return restored
        except (OSError, ResourcesExhaustedError) as error:
            raise _unreadable(self.store, error) from error
        return None

    def write(self, snapshot: Snapshot, parts: Parts) -> int:
        """Write rank 0's part and, once the others have told theirs, the manifest.

        The manifest, written last, makes the checkpoint exist. Returns the bytes of all files.
        """
        identity = self.identity
        attempts = [place.attempt for place in self._places()]
        if max(attempts, default=0) > identity.attempt:
            raise PeerLostError(
                f"attempt {max(attempts)} has begun; attempt {identity.attempt} writes no more"
            )
        place = Place(snapshot.step, identity.attempt, identity.run)
        folder = self.store.child(place.path)
        # Left by an interrupted try, or by a run that went back before this step.
        _remove(folder, MANIFEST)
        entries = [*self.write_part(snapshot, 0, parts.writers), *parts.others()]
        facts = {"uid": identity.uid, "revision": identity.revision, "plan": identity.plan}
        digest = write_manifest(
            folder, FORMAT, entries, attempt=identity.attempt, step=snapshot.step, **facts
        )
        if read_manifest(folder).digest != digest:
            raise DamagedError(f"{folder.uri}: {MANIFEST} was not stored as it was written")
        self._written[place] = CheckpointRef(step=snapshot.step, uri=folder.uri, digest=digest)
        return sum(entry.bytes for entry in entries)

    def write_part(self, snapshot: Snapshot, number: int, writers: int) -> list[FileEntry]:
        """Write one rank's files of a checkpoint, read them again, and return their entries."""
        place = Place(snapshot.step, self.identity.attempt, self.identity.run)
        folder = self.store.child(place.path)
        snapshot.arrived()
        entries = []
        for name, content in _files(snapshot, number, writers):
            _remove(folder, name)
            entries.append(folder.write(name, content))
        verify(folder, Manifest(FORMAT, tuple(entries)))
        return entries

    def pieces(
        self, path: str, kind: str, digest: str
    ) -> Callable[[Mapping[str, Piece]], Iterator[Piece]]:
        """Return a reader of a checkpoint's pieces of one kind that share rows with given targets.

        Each is read from storage when it is asked for. Every file that has any is read to its end
        and compared with the manifest of that digest: rank 0 found the checkpoint whole, another
        rank may be given other bytes. Raises ExternalServiceError then: the attempt is repeated.
        """
        folder = self.store.child(path)

        def read(targets: Mapping[str, Piece]) -> Iterator[Piece]:
            try:
                yield from verified_pieces(folder, digest, f"{kind}-", targets)
            except (DamagedError, OSError) as error:
                raise _unreadable(self.store, error) from error

        return read

    def retain(self, keep_last: int, keep: Iterable[int]) -> None:
        """Delete this revision's checkpoints beyond the last ones and the steps in `keep`.

        Manifest first: a folder that loses it stops existing at once. Called after the newest is
        verified, so nothing goes before its successor exists.
        """
        mine = sorted(place for place in self._places(complete=True) if self._is_ours(place))
        kept = set(keep) | {place.step for place in mine[-keep_last:]}
        for place in mine:
            if place.step not in kept:
                self._clear(self.store.child(place.path))
                self._written.pop(place, None)
        for place in self._leftovers():
            self._clear(self.store.child(place.path))

    def written(self) -> dict[int, CheckpointRef]:
        """Return the verified checkpoints of this run by step."""
        return {place.step: ref for place, ref in sorted(self._written.items())}

    def _is_ours(self, place: Place) -> bool:
        if place in self._written:
            return True
        with suppress(TrainerError):
            facts = read_manifest(self.store.child(place.path)).facts
            return facts.get("revision") == self.identity.revision
        return False

    def _restored(self, folder: Store, place: Place, digests: Mapping[str, str]) -> Restored | None:
        manifest = read_manifest(folder)
        facts = manifest.facts
        expected = {
            "uid": self.identity.uid,
            "revision": self.identity.revision,
            "plan": self.identity.plan,
        }
        if any(facts.get(name) != value for name, value in expected.items()):
            return None
        if digests.get(folder.uri, manifest.digest) != manifest.digest:
            raise DamagedError(f"{folder.uri}: differs from the digest that was reported for it")
        verify(folder, manifest)
        return Restored(
            ref=CheckpointRef(step=place.step, uri=folder.uri, digest=manifest.digest),
            path=place.path,
            state=json.loads(folder.read(STATE)),
        )

    def _places(self, *, complete: bool = False) -> list[Place]:
        found = self._contents()
        if not complete:
            return list(found)
        return [p for p, names in found.items() if MANIFEST in names and QUARANTINED not in names]

    def _leftovers(self) -> list[Place]:
        """Return folders that earlier runs left without a manifest."""
        own = self.identity.attempt, self.identity.run
        return [
            place
            for place, names in self._contents().items()
            if MANIFEST not in names and (place.attempt, place.run) < own
        ]

    def _contents(self) -> dict[Place, set[str]]:
        files: dict[Place, set[str]] = {}
        for name in self._names():
            match = FOLDER.match(name)
            if match is not None:
                attempt, run, step = map(int, match.groups())
                files.setdefault(Place(step, attempt, run), set()).add(name[match.end() :])
        return files

    def _names(self) -> list[str]:
        try:
            return self.store.list("checkpoints/")
        except (OSError, ResourcesExhaustedError) as error:
            raise _unreadable(self.store, error) from error

    def _clear(self, folder: Store) -> None:
        for name in sorted(folder.list(), key=lambda name: name != MANIFEST):
            folder.delete(name)

    def _set_aside(self, folder: Store, error: DamagedError) -> None:
        self.quarantined.append(error.message)
        note = json.dumps({"reason": error.message, "attempt": self.identity.attempt})
        with suppress(OSError, TrainerError):
            folder.write(QUARANTINED, note.encode())


def _unreadable(store: Store, error: Exception) -> ExternalServiceError:
    return ExternalServiceError(
        f"{store.uri}: checkpoints cannot be read ({error}); repair the storage"
    )


def _remove(folder: Store, name: str) -> None:
    if folder.exists(name):
        folder.delete(name)


def _files(
    snapshot: Snapshot, number: int, writers: int
) -> Iterator[tuple[str, bytes | Iterable[bytes]]]:
    facts = {"step": str(snapshot.step)}
    for kind, pieces in ((TRAINABLE, snapshot.weights), (OPTIMIZER, snapshot.moments)):
        yield f"{kind}-{number:05}-of-{writers:05}.safetensors", tensor_file(pieces, facts)
    if number:
        return
    yield from snapshot.files.items()
    yield STATE, json.dumps(snapshot.state, allow_nan=False).encode()
