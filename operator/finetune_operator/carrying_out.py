"""Carries out a plan's children: creates what is absent, leaves the rest, never adopts."""

from __future__ import annotations

from dataclasses import replace

from finetune_operator.cluster.cluster_protocol import Cluster
from finetune_operator.cluster.resources import MUTABLE_KINDS, resource_named, resource_of
from finetune_operator.errors import (
    ConflictError,
    NameTakenError,
    NotServedError,
    PredecessorError,
)
from finetune_operator.observed import ChildRef, Key, Manifest


async def apply_child(cluster: Cluster, child: Manifest, *, owner: Key, owner_uid: str) -> None:
    """Make `child` exist.

    A create touches nothing that exists: the server itself says so, and only then it is read
    whose it is. A Job is made once; a newer operator never touches it. What is applied again and
    again is read first, so that no field is forced onto a stranger's.

    Raises NameTakenError if somebody else controls the name, PredecessorError while the child of
    a deleted object of the same name is still there, ConflictError if it went meanwhile.
    """
    if child["kind"] in MUTABLE_KINDS:
        found = await _live(cluster, child)
        if found is not None:
            _must_be_ours(child, found, owner, owner_uid)
        await cluster.apply(child, force=found is not None)
        return
    try:
        await cluster.create(child)
    except ConflictError:
        found = await _live(cluster, child)
        if found is None:
            raise
        _must_be_ours(child, found, owner, owner_uid)


async def delete_child(cluster: Cluster, child: ChildRef, *, owner_uid: str) -> None:
    """Delete `child` if it still is the one observed; one known by name alone, if it is ours."""
    if child.uid:
        await cluster.delete(child)
        return
    try:
        kind = resource_named(child.api_version, child.kind)
        found = await cluster.read(kind, child.namespace, child.name)
    except NotServedError:
        return
    if found is not None and _controller(found).get("uid") == owner_uid:
        metadata = found["metadata"]
        version = metadata["resourceVersion"]
        await cluster.delete(replace(child, uid=metadata["uid"], resource_version=version))


async def _live(cluster: Cluster, child: Manifest) -> Manifest | None:
    metadata = child["metadata"]
    return await cluster.read(resource_of(child), metadata["namespace"], metadata["name"])


def _must_be_ours(child: Manifest, found: Manifest, owner: Key, owner_uid: str) -> None:
    controller = _controller(found)
    if controller.get("uid") != owner_uid:
        raise _stranger(child, controller, owner)
    if found["metadata"].get("deletionTimestamp"):
        name = child["metadata"]["name"]
        raise PredecessorError(f"{child['kind']} {name} is still being deleted")


def _controller(found: Manifest) -> Manifest:
    owners: list[Manifest] = found["metadata"].get("ownerReferences") or []
    return next((owner for owner in owners if owner.get("controller")), {})


def _stranger(child: Manifest, controller: Manifest, owner: Key) -> Exception:
    name = child["metadata"]["name"]
    if (controller.get("kind"), controller.get("name")) == (owner.kind, owner.name):
        return PredecessorError(f"{child['kind']} {name} belongs to a deleted {owner.kind}")
    holder = f"{controller['kind']} {controller['name']}" if controller else "nobody"
    return NameTakenError(child["kind"], name, holder)
