"""Which objects live, and what in storage they refer to: both stay, whatever a note says."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.names import GROUP, PLURALS
from finetune_api.prune_messages import MarkedFolder
from finetune_operator.cluster.local_cluster import LocalCluster

Manifest = dict[str, Any]
_SCHEMES = ("pvc://", "s3://")


class UnknownObjectsError(Exception):
    """Nobody can say which objects live."""


@dataclass(frozen=True)
class Living:
    """Identities of living objects, and addresses in their specs and statuses."""

    uids: frozenset[str]
    uris: frozenset[str]

    def needs(self, folder: MarkedFolder) -> bool:
        """Tell whether a folder belongs to a living object, or one refers to something in it."""
        inside = f"{folder.uri}/"
        return folder.uid in self.uids or any(
            uri == folder.uri or uri.startswith(inside) for uri in self.uris
        )


def living(items: Iterable[Manifest]) -> Living:
    """Return what a list of all objects of our kinds says."""
    known = list(items)
    uids = frozenset(item["metadata"]["uid"] for item in known)
    uris = (uri for item in known for part in ("spec", "status") for uri in _uris(item.get(part)))
    return Living(uids, frozenset(uris))


def objects_of_work_dir(work_dir: Path) -> list[Manifest]:
    """Return all objects of `finetune run`."""
    return LocalCluster(work_dir).ours()


def objects_of_cluster() -> list[Manifest]:
    """Return all objects that kubectl sees; raises UnknownObjectsError if it may not see all."""
    kinds = ",".join(f"{plural}.{GROUP}" for plural in PLURALS.values())
    command = ["kubectl", "get", kinds, "--all-namespaces", "--output", "json"]
    try:
        told = subprocess.run(command, capture_output=True, check=True, text=True)  # noqa: S603
        items: list[Manifest] = json.loads(told.stdout)["items"]
    except (OSError, subprocess.CalledProcessError, ValueError, KeyError) as error:
        said = getattr(error, "stderr", "") or str(error)
        raise UnknownObjectsError(f"kubectl get {kinds}: {said.strip()}") from error
    return items


def _uris(part: object) -> Iterator[str]:
    if isinstance(part, str) and part.startswith(_SCHEMES):
        yield part.rstrip("/")
    if isinstance(part, list):
        for one in part:
            yield from _uris(one)
    if isinstance(part, dict):
        for one in part.values():
            yield from _uris(one)
        if "claimName" in part:
            yield f"pvc://{part['claimName']}/{part.get('path') or ''}".rstrip("/")
        if "bucket" in part:
            yield f"s3://{part['bucket']}/{part.get('prefix') or ''}".rstrip("/")
