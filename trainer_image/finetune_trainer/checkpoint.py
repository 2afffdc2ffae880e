"""Resumable state in storage: write once, manifest last, newest verified, retention.

`checkpoints/attempt-<attempt>.<run>/step-<step>/` below the experiment's folder. The path carries
the attempt and its run, so an old attempt cannot touch a new one's files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from finetune_api.run_outcome import CheckpointRef
from finetune_trainer.errors import (
    ExternalServiceError,
    PeerLostError,
    ResourcesExhaustedError,
    TrainerError,
)
from finetune_trainer.store import (
    DamagedError,
    FileEntry,
    Manifest,
    Store,
    read_manifest,
    verify,
    write_manifest,
)
from finetune_trainer.tensor_file import read_tensors, tensor_file

FORMAT = "checkpoint/v1"
TRAINABLE = "trainable-00000-of-00001.safetensors"
OPTIMIZER = "optimizer-00000-of-00001.safetensors"
ADAPTER, STATE = "adapter_config.json", "state.json"
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
    """A state copied to host memory, which training changes no more."""

    step: int
    weights: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    state: Mapping[str, Any]
    adapter: Mapping[str, Any] | None


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
    state: dict[str, Any]
    weights: dict[str, Tensor]
    moments: dict[str, Tensor]


class Checkpoints:
    """The checkpoints of one experiment, seen by one run of one attempt."""

    def __init__(self, store: Store, identity: RunIdentity) -> None:
        self.store = store
        taken = [place.run for place in self._places() if place.attempt == identity.attempt]
        # A queue may stop and resume the same Job: its second run writes beside its first.
        self.identity = replace(identity, run=max(taken, default=-1) + 1)
        self.quarantined: list[str] = []
        self._written: dict[Place, CheckpointRef] = {}

    def newest(self, known: Iterable[CheckpointRef]) -> Restored | None:
        """Return the newest checkpoint of this plan that is whole; broken ones are set aside.

        `known` were reported before: the same address with another digest is broken too. Raises
        ExternalServiceError when the storage cannot be read.
        """
        digests = {ref.uri: ref.digest for ref in known}
        try:
            for place in sorted(self._places(complete=True), reverse=True):
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

    def write(self, snapshot: Snapshot) -> CheckpointRef:
        """Write and verify one checkpoint; the manifest, written last, makes it exist."""
        identity = self.identity
        attempts = [place.attempt for place in self._places()]
        if max(attempts, default=0) > identity.attempt:
            raise PeerLostError(
                f"attempt {max(attempts)} has begun; attempt {identity.attempt} writes no more"
            )
        place = Place(snapshot.step, identity.attempt, identity.run)
        folder = self.store.child(place.path)
        # What an interrupted try of this same write has left; nobody else writes here.
        self._clear(folder)
        entries = list(_files(folder, snapshot))
        facts = {"uid": identity.uid, "revision": identity.revision, "plan": identity.plan}
        digest = write_manifest(
            folder, FORMAT, entries, attempt=identity.attempt, step=snapshot.step, **facts
        )
        verify(folder, read_manifest(folder))
        ref = CheckpointRef(step=snapshot.step, uri=folder.uri, digest=digest)
        self._written[place] = ref
        return ref

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
        return _loaded(folder, manifest, place.step)

    def _places(self, *, complete: bool = False) -> list[Place]:
        files: dict[Place, set[str]] = {}
        for name in self._names():
            match = FOLDER.match(name)
            if match is not None:
                attempt, run, step = map(int, match.groups())
                files.setdefault(Place(step, attempt, run), set()).add(name[match.end() :])
        if not complete:
            return list(files)
        return [p for p, found in files.items() if MANIFEST in found and QUARANTINED not in found]

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


def _files(folder: Store, snapshot: Snapshot) -> Iterable[FileEntry]:
    facts = {"step": str(snapshot.step)}
    yield folder.write(TRAINABLE, tensor_file(snapshot.weights, facts))
    yield folder.write(OPTIMIZER, tensor_file(snapshot.moments, facts))
    if snapshot.adapter is not None:
        yield folder.write(ADAPTER, json.dumps(snapshot.adapter, indent=1).encode())
    yield folder.write(STATE, json.dumps(snapshot.state, allow_nan=False).encode())


def _loaded(folder: Store, manifest: Manifest, step: int) -> Restored:
    return Restored(
        ref=CheckpointRef(step=step, uri=folder.uri, digest=manifest.digest),
        state=json.loads(folder.read(STATE)),
        weights=read_tensors(folder.read(TRAINABLE)),
        moments=read_tensors(folder.read(OPTIMIZER)),
    )
