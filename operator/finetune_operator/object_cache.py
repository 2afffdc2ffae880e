"""Remembers what was last seen: our objects, their children and progress, and who waits for whom.

Bodies are kept as JSON text: a tenth of the memory of parsed objects, and what the models parse.
Children arrive as facts of about 1 KB (`informers`), never as whole manifests.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from finetune_api.names import ATTEMPT_LABEL, DATASET, EXPERIMENT, EXPORT, OWNER_LABELS
from finetune_api.run_progress import Progress
from finetune_operator.observed import Key, Manifest

ChildKey = tuple[str, str, str]
"""Kind, namespace and UID: a new child under an old name is another child."""
MOST_DEPARTED = 1024
"""Vanished children kept per owner until their attempt's end is recorded."""


@dataclass(frozen=True, slots=True)
class _Entry:
    text: bytes
    uid: str
    resource_version: str


@dataclass(frozen=True, slots=True)
class Child:
    """One Job or Pod as last seen; `gone` once it was deleted."""

    key: ChildKey
    owner: Key
    name: str
    attempt: int
    text: bytes
    gone: bool = False

    def manifest(self) -> Manifest:
        """Return the facts in the shape of the manifest they were taken from."""
        facts: Manifest = json.loads(self.text)
        return facts


class ObjectCache:
    """Last seen objects with an owner index and a reference index; memory only, no I/O."""

    def __init__(self) -> None:
        self._objects: dict[Key, _Entry] = {}
        self._children: dict[ChildKey, Child] = {}
        self._owned: defaultdict[Key, dict[ChildKey, None]] = defaultdict(dict)
        self._awaited: defaultdict[Key, set[Key]] = defaultdict(set)
        self._awaits: dict[Key, frozenset[Key]] = {}
        self._progress: dict[str, Progress] = {}

    def store(self, key: Key, body: Manifest) -> bool:
        """Remember an object of our kinds; return False if this version or a later one was known.

        The answer to our own write is here before the watch tells of the versions up to it.
        """
        metadata = body["metadata"]
        uid, version = metadata.get("uid", ""), metadata.get("resourceVersion", "")
        known = self._objects.get(key)
        if known and known.uid == uid and not is_later(version, known.resource_version):
            return False
        self._objects[key] = _Entry(_text(body), uid, version)
        self._release_departed(key, body)
        return True

    def forget(self, key: Key) -> None:
        """Drop a deleted object; its children stay until their own deletion is seen."""
        self._objects.pop(key, None)
        self.set_references(key, ())
        for child in list(self._owned.get(key, ())):
            if self._children[child].gone:
                self._drop(child)

    def text(self, key: Key) -> bytes | None:
        """Return the object as JSON text, or None if it is not known."""
        entry = self._objects.get(key)
        return entry.text if entry else None

    def version(self, key: Key) -> tuple[str, str] | None:
        """Return UID and resourceVersion of the object, or None if it is not known."""
        entry = self._objects.get(key)
        return (entry.uid, entry.resource_version) if entry else None

    def known(self) -> frozenset[Key]:
        """Return the keys of all known objects."""
        return frozenset(self._objects)

    def highest_fence(self) -> int:
        """Return the highest fencing number that any status carries, 0 if none does."""
        statuses = (json.loads(entry.text).get("status") or {} for entry in self._objects.values())
        return max((status.get("fence") or 0 for status in statuses), default=0)

    def store_child(self, facts: Manifest) -> Key | None:
        """Remember a child; return its owner's key, None if the labels name no owner."""
        owner = owner_key(facts)
        if owner is None:
            return None
        metadata = facts["metadata"]
        key = (facts["kind"], metadata["namespace"], metadata["uid"])
        label = (metadata.get("labels") or {}).get(ATTEMPT_LABEL, "")
        attempt = int(label) if label.isdecimal() else 0
        self._children[key] = Child(key, owner, metadata["name"], attempt, _text(facts))
        self._owned[owner][key] = None
        return owner

    def forget_child(self, key: ChildKey) -> Key | None:
        """Mark a child as gone and return its owner's key.

        Exit codes and termination messages may be needed after the pod is gone, so its last
        state stays until the end of its attempt is recorded or its owner is gone.
        """
        child = self._children.get(key)
        if child is None or child.gone:
            return None
        owned = self._owned[child.owner]
        departed = [known for known in owned if self._children[known].gone]
        if child.owner not in self._objects:
            self._drop(key)
        else:
            self._children[key] = replace(child, gone=True)
            if len(departed) >= MOST_DEPARTED:
                self._drop(departed[0])
        return child.owner

    def children(self, owner: Key, kind: str) -> list[Child]:
        """Return the Jobs or Pods of `owner`, those gone included while they are remembered."""
        found = (self._children[key] for key in self._owned.get(owner, ()))
        return [child for child in found if child.key[0] == kind]

    def living(self, kind: str) -> frozenset[ChildKey]:
        """Return the keys of all children of a kind that were not seen deleted."""
        return frozenset(
            k for k, child in self._children.items() if k[0] == kind and not child.gone
        )

    def set_references(self, key: Key, references: Iterable[Key]) -> None:
        """Say which objects `key` waits for; replaces what was said before."""
        for reference in self._awaits.pop(key, frozenset()):
            self._awaited[reference].discard(key)
            if not self._awaited[reference]:
                del self._awaited[reference]
        if wanted := frozenset(references):
            self._awaits[key] = wanted
            for reference in wanted:
                self._awaited[reference].add(key)

    def waiters(self, reference: Key) -> frozenset[Key]:
        """Return the keys that wait for `reference`."""
        return frozenset(self._awaited.get(reference, ()))

    def store_progress(self, pod_uid: str, progress: Progress) -> None:
        """Remember what a pod answered last."""
        self._progress[pod_uid] = progress

    def progress(self, pod_uid: str) -> Progress | None:
        """Return what the pod with this UID answered last."""
        return self._progress.get(pod_uid)

    def _release_departed(self, owner: Key, body: Manifest) -> None:
        """Drop vanished children whose end needs no judging any more."""
        recorded = body.get("status", {}).get("attempt", {})
        number, ended = recorded.get("number", 0), recorded.get("ended") is not None
        for key in list(self._owned.get(owner, ())):
            child = self._children[key]
            if child.gone and child.attempt < number + ended:
                self._drop(key)

    def _drop(self, key: ChildKey) -> None:
        child = self._children.pop(key)
        self._progress.pop(key[2], None)
        owned = self._owned[child.owner]
        owned.pop(key, None)
        if not owned:
            del self._owned[child.owner]


def owner_key(facts: Manifest) -> Key | None:
    """Return the key of the object of ours that a child's labels name.

    Children of an experiment carry its Dataset's label too, hence the order.
    """
    metadata = facts["metadata"]
    labels = metadata.get("labels") or {}
    for kind in (EXPERIMENT, EXPORT, DATASET):
        if name := labels.get(OWNER_LABELS[kind]):
            return Key(kind, metadata["namespace"], name)
    return None


def is_later(version: str, known: str) -> bool:
    """Compare resource versions: as numbers, where both are (Kubernetes' KEP-5504)."""
    if version.isdecimal() and known.isdecimal():
        return int(version) > int(known)
    return version != known


def _text(body: Manifest) -> bytes:
    if "managedFields" in body.get("metadata", {}):
        metadata = {k: v for k, v in body["metadata"].items() if k != "managedFields"}
        body = {**body, "metadata": metadata}
    return json.dumps(body, separators=(",", ":")).encode()
