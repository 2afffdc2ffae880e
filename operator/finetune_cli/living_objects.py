"""Which objects live, and what in storage they refer to: both stay, whatever a note says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.prune_messages import MarkedFolder
from finetune_operator.cluster.api_transport import ApiTransport
from finetune_operator.cluster.kubernetes_cluster import KubernetesCluster
from finetune_operator.cluster.local_cluster import LocalCluster
from finetune_operator.cluster.resources import OURS
from finetune_operator.errors import OperatorError

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
    """Return the objects of all namespaces; raises UnknownObjectsError if not all may be seen.

    Asked is the cluster of the pod's own account, or of the kubeconfig outside a cluster.
    """
    try:
        return asyncio.run(_listed())
    except OperatorError as error:
        raise UnknownObjectsError(f"the objects that live cannot be listed: {error}") from error


async def _listed() -> list[Manifest]:
    cluster = KubernetesCluster(await ApiTransport.connect(use_proxies=True))
    try:
        pages = [page for kind in OURS.values() async for page in cluster.pages(kind)]
    finally:
        await cluster.close()
    return [item for page in pages for item in page.items]


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
