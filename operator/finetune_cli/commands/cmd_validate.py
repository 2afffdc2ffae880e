"""`finetune validate`: what the API server would refuse, without a server."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

from finetune_cli.read_manifests import Document, ManifestError, read_manifests
from finetune_operator.cluster.local_admission import AdmissionError, admit


def validate(paths: Iterable[str | Path]) -> int:
    """Print one line per object and one per problem; return 0 when all would be accepted."""
    try:
        documents = read_manifests(paths)
    except ManifestError as error:
        for problem in error.problems:
            click.echo(problem, err=True)
        return 1
    return max([_validated(document) for document in documents], default=1)


def _validated(document: Document) -> int:
    if document.is_config_map:
        return 0
    try:
        admit(document.manifest)
    except AdmissionError as error:
        for problem in error.problems:
            click.echo(f"{document.origin}: {document.title}: {problem}", err=True)
        return 1
    click.echo(f"{document.title}: valid")
    return 0
