"""`finetune delete`: forget objects of a work directory; what they wrote stays."""

from __future__ import annotations

from pathlib import Path

import click

from finetune_cli.read_manifests import ManifestError, read_manifests
from finetune_cli.run_rows import key_of
from finetune_operator.cluster.local_cluster import (
    NAMESPACE,
    LocalCluster,
    WorkDirectoryBusyError,
)


def delete(paths: tuple[Path, ...], work_dir: Path) -> int:
    """Delete the manifests' objects from the work directory; return the exit code."""
    try:
        documents = read_manifests(paths)
    except ManifestError as error:
        for problem in error.problems:
            click.echo(problem, err=True)
        return 2
    cluster = LocalCluster(work_dir)
    known = {key_of(item) for item in cluster.ours()}
    try:
        with cluster.locked():
            for document in documents:
                metadata = {"namespace": NAMESPACE, **document.manifest["metadata"]}
                key = key_of({**document.manifest, "metadata": metadata})
                cluster.remove(key)
                click.echo(f"{document.title}: {'deleted' if key in known else 'not found'}")
    except WorkDirectoryBusyError as error:
        click.echo(str(error), err=True)
        return 2
    return 0
