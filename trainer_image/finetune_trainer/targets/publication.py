"""Copies a finished artifact to a target: files first, the manifest last, nothing twice.

A reader at the target trusts a folder with a manifest. So the manifest is removed before a file
is replaced and written when everything lies there; a copy that was cut goes on where it stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from finetune_trainer.errors import ConfigurationError, ExternalServiceError
from finetune_trainer.store import MANIFEST, DamagedError, Manifest, Store, read_manifest
from finetune_trainer.store_protocol import FileEntry, Hashed, chunks_of

if TYPE_CHECKING:
    from collections.abc import Callable

WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin")
"""Files of another model that a loader would pick up beside ours."""


class TargetConflictError(ConfigurationError):
    """Other content lies at the target and replacing it was not asked for."""

    reason = "TargetConflict"


@dataclass(frozen=True)
class Artifact:
    """A finished artifact: where it lies and what its manifest says."""

    store: Store
    manifest: Manifest


def publish(
    artifact: Artifact,
    target: Store,
    *,
    replace: bool,
    sent: Callable[[int], None] = lambda _: None,
) -> None:
    """Bring the target to exactly the artifact's files; `sent` hears the bytes of each file.

    Raises TargetConflictError, and ExternalServiceError with reason TargetUnavailable.
    """
    try:
        if _published(target) == artifact.manifest.digest:
            return
        present = _kept(artifact.manifest, target, replace=replace)
        for entry in artifact.manifest.files:
            if entry.name not in present:
                _copy(artifact.store, target, entry)
            sent(entry.bytes)
        target.write(MANIFEST, artifact.store.read(MANIFEST))
    except FileExistsError as error:
        raise TargetConflictError(
            f"{target.uri}: somebody else writes there at the same time; use a folder of its own"
        ) from error
    except ExternalServiceError as error:
        raise ExternalServiceError(
            f"{target.uri}: {error.message}", remedy=error.remedy, reason="TargetUnavailable"
        ) from error


def _published(target: Store) -> str:
    if not target.exists(MANIFEST):
        return ""
    try:
        return read_manifest(target).digest
    except DamagedError:
        return ""


def _kept(manifest: Manifest, target: Store, *, replace: bool) -> set[str]:
    """Return the files that already lie at the target as they should; remove or refuse others."""
    expected = {entry.name: entry for entry in manifest.files}
    kept, foreign = set(), []
    for name in sorted(_ours(target, expected), key=lambda name: name != MANIFEST):
        if name in expected and _same(target, expected[name]):
            kept.add(name)
        else:
            foreign.append(name)
    if foreign and not replace:
        raise TargetConflictError(
            f"{target.uri}: {foreign[0]} holds other content; set replace on the target, or use "
            "another path"
        )
    for name in foreign:
        target.delete(name)
    return kept


def _ours(target: Store, expected: dict[str, FileEntry]) -> set[str]:
    """Return the names at the target that the artifact, or a loader of it, would meet."""
    names = set(target.list())
    mine = {name for name in names if name in expected or name == MANIFEST}
    return mine | {name for name in names if "/" not in name and name.endswith(WEIGHTS)}


def _same(target: Store, entry: FileEntry) -> bool:
    with target.open(entry.name) as stream:
        hashed = Hashed(chunks_of(stream))
        for _ in hashed:
            pass
    return hashed.entry(entry.name) == entry


def _copy(source: Store, target: Store, entry: FileEntry) -> None:
    with source.open(entry.name) as stream:
        written = target.write(entry.name, chunks_of(stream))
    if written != entry:
        target.delete(entry.name)
        raise DamagedError(f"{source.uri}/{entry.name}: differs from its manifest; export again")
