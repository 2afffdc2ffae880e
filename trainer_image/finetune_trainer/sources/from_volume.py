"""Files on a PersistentVolumeClaim; nothing outside the claim, not even through links."""

from __future__ import annotations

from pathlib import Path

from finetune_api.dataset_sources import Source
from finetune_trainer.errors import AccessError
from finetune_trainer.mounts import claim_folder
from finetune_trainer.sources.fetched_files import Desk, Fetched, FetchedFile, chosen, nothing_found


def fetch_volume(source: Source, desk: Desk) -> Fetched:
    """Return a copy of the file, or of the data files of the folder."""
    claim = source.volume_claim
    assert claim is not None  # noqa: S101 - the table of sources chose by this member
    root = claim_folder(claim.claim_name)
    start = root / (claim.path or "")
    what = f'claim "{claim.claim_name}", path "{claim.path or "."}"'
    _inside(start, root, what)
    if start.is_file():
        return Fetched(files=(_kept(start, start.name, root, what, desk),))
    found = [path.relative_to(start).as_posix() for path in start.rglob("*") if path.is_file()]
    names = chosen(found, source)
    if not names:
        parent = start.parent if start != root else root
        known = [path.name for path in parent.iterdir()] if parent.is_dir() else []
        raise nothing_found(what, start.name, known)
    return Fetched(files=tuple(_kept(start / name, name, root, what, desk) for name in names))


def _kept(path: Path, name: str, root: Path, what: str, desk: Desk) -> FetchedFile:
    _inside(path, root, what)
    try:
        with path.open("rb") as stream:
            return desk.keep(name, stream)
    except PermissionError as error:
        raise AccessError(
            f"AccessDenied: {what}: {name} cannot be read. Expected: read permission. Fix: grant "
            "it to the pod's group.",
            reason="AccessDenied",
        ) from error


def _inside(path: Path, root: Path, what: str) -> None:
    if not path.resolve().is_relative_to(root.resolve()):
        raise AccessError(
            f"AccessDenied: {what}: leads out of the volume. Expected: a path inside it. Fix: copy "
            "the file there.",
            reason="AccessDenied",
        )
