"""Carries out a plan's children: creates what is absent, leaves the rest, never adopts."""

from __future__ import annotations

from finetune_operator.cluster.cluster_protocol import Cluster
from finetune_operator.cluster.resources import MUTABLE_KINDS, resource_of
from finetune_operator.errors import NameTakenError, PredecessorError
from finetune_operator.observed import ChildRef, Key, Manifest


async def apply_child(cluster: Cluster, child: Manifest, *, owner: Key, owner_uid: str) -> None:
    """Make `child` exist.

    A live read comes first: a cache that is behind must neither create a second child nor force
    its fields onto a stranger's. A Job is applied once; a newer operator never touches it.

    Raises NameTakenError if somebody else controls the name, PredecessorError while the child of
    a deleted object of the same name is still there, ConflictError if it was created meanwhile:
    the next step sees by whom.
    """
    resource, metadata = resource_of(child), child["metadata"]
    found = await cluster.read(resource, metadata["namespace"], metadata["name"])
    if found is None:
        await cluster.apply(child, force=False)
        return
    controller = _controller(found)
    if controller.get("uid") != owner_uid:
        raise _stranger(child, controller, owner)
    if found["metadata"].get("deletionTimestamp"):
        raise PredecessorError(f"{child['kind']} {metadata['name']} is still being deleted")
    if child["kind"] in MUTABLE_KINDS:
        await cluster.apply(child, force=True)


async def delete_child(cluster: Cluster, child: ChildRef) -> None:
    """Delete `child` if it still is the one observed."""
    await cluster.delete(child)


def _controller(found: Manifest) -> Manifest:
    owners: list[Manifest] = found["metadata"].get("ownerReferences") or []
    return next((owner for owner in owners if owner.get("controller")), {})


def _stranger(child: Manifest, controller: Manifest, owner: Key) -> Exception:
    name = child["metadata"]["name"]
    if (controller.get("kind"), controller.get("name")) == (owner.kind, owner.name):
        return PredecessorError(f"{child['kind']} {name} belongs to a deleted {owner.kind}")
    holder = f"{controller['kind']} {controller['name']}" if controller else "nobody"
    return NameTakenError(child["kind"], name, holder)
