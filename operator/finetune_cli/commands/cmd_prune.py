"""`finetune prune`: remove from storage what deleted objects and killed writers left there.

Storage is looked at before the objects are: what was written by then by an object that lives has
that object in the list.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click
from pydantic import ValidationError

from finetune_api import names
from finetune_api.prune_messages import Leftover, PruneAnswer, PruneRequest
from finetune_api.storage import Location
from finetune_cli.living_objects import (
    Living,
    UnknownObjectsError,
    living,
    objects_of_cluster,
    objects_of_work_dir,
)
from finetune_cli.read_manifests import ManifestError, read_block

FAILED = 2


@dataclass(frozen=True)
class PruneOptions:
    """What the command line says."""

    storage: Path
    work_dir: Path | None
    mounts: Path | None
    stale_seconds: float
    delete: bool


class StorageError(Exception):
    """The storage cannot be looked at."""


def prune(options: PruneOptions) -> int:
    """List, or remove, what nobody needs; return the exit code."""
    try:
        look = PruneRequest(
            location=_location(options.storage), stale_seconds=options.stale_seconds
        )
        found = _asked(look, options)
        wanted = chosen(found, living(_objects(options)))
        if options.delete and (wanted.folders or wanted.leftovers):
            found_again = look.model_copy(
                update={
                    "folders": [one.prefix for one in wanted.folders],
                    "leftovers": wanted.leftovers,
                }
            )
            wanted = _asked(found_again, options)
    except (StorageError, UnknownObjectsError) as error:
        click.echo(str(error), err=True)
        return FAILED
    for line in _lines(wanted, "removed" if options.delete else "would be removed"):
        click.echo(line)
    return 0


def chosen(found: PruneAnswer, alive: Living) -> PruneAnswer:
    """Return what was found without the folders that living objects need."""
    folders = [one for one in found.folders if not alive.needs(one)]
    return found.model_copy(update={"folders": folders})


def _objects(options: PruneOptions) -> list[dict[str, object]]:
    return objects_of_work_dir(options.work_dir) if options.work_dir else objects_of_cluster()


def _location(path: Path) -> Location:
    try:
        location = Location.model_validate(read_block(path))
    except ManifestError as error:
        raise StorageError("; ".join(error.problems)) from error
    except ValidationError as error:
        wrong = ", ".join(".".join(map(str, one["loc"])) for one in error.errors())
        raise StorageError(f"{path}: not a storage block: {wrong or 'no mapping'}") from error
    if (location.volume_claim is None) == (location.s3 is None):
        raise StorageError(f"{path}: exactly one of volumeClaim and s3 is expected")
    return location


def _asked(request: PruneRequest, options: PruneOptions) -> PruneAnswer:
    """Let the trainer's code look at the storage: it alone speaks S3."""
    folder = options.mounts or options.work_dir
    environment = dict(os.environ)
    if folder is not None:
        environment[names.CLAIMS_DIR_ENV] = str(folder / "claims")
        environment[names.SECRETS_DIR_ENV] = str(folder / "secrets")
    told = subprocess.run(
        [sys.executable, "-m", "finetune_trainer", "prune"],
        input=request.model_dump_json(by_alias=True),
        capture_output=True,
        check=False,
        env=environment,
        text=True,
    )
    if told.returncode:
        raise StorageError(told.stderr.strip())
    return PruneAnswer.model_validate_json(told.stdout)


def _lines(answer: PruneAnswer, what: str) -> list[str]:
    lines = [f"{one.uri}: {one.files} files {what}" for one in answer.folders]
    lines += [f"{one.name}: {_kind(one)} {what}" for one in answer.leftovers]
    return lines or ["nothing to remove"]


def _kind(one: Leftover) -> str:
    if one.upload:
        return "open upload"
    return "half-written folder" if one.name.endswith("/") else "pointer to nothing"
