"""The store of a namespace's pods: write-once objects at the addresses the operator configured."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_api.names import EXPERIMENT, PLURALS, storage_prefix

Json = dict[str, Any]
_WRITER = r"attempt-(\d+)\.(\d+)"
_CHECKPOINT = re.compile(rf"/checkpoints/{_WRITER}/step-(\d+)$")
_RESULT = re.compile(rf"/{_WRITER}$")


@dataclass
class PlayedStore:
    """What the pods wrote; `broken` says which write should not have been."""

    objects: dict[str, str] = field(default_factory=dict)
    """objects are digests by address."""
    broken: list[str] = field(default_factory=list)

    def newest(self, config: Json) -> Json | None:
        """Return the checkpoint to go on from; what the operator calls known must be there."""
        for known in config.get("knownCheckpoints") or ():
            if self.objects.get(known["uri"]) != known["digest"]:
                self.broken.append(f"{known['uri']} is known and not in the store")
        found = self._steps(config["prefix"], config["preparedRevision"])
        if not found:
            return None
        address = found[max(found)]
        return {"step": max(found), "uri": address, "digest": self.objects[address]}

    def checkpoint(self, config: Json, step: int) -> Json:
        """Write a checkpoint; a step that is stored already was computed twice."""
        revision = config["preparedRevision"]
        if step in self._steps(config["prefix"], revision):
            self.broken.append(f"step {step} of revision {revision} is computed twice")
        writer = f"attempt-{config['identity']['attempt']}.{revision}"
        return {"step": step, **self._write(config, f"checkpoints/{writer}/step-{step}")}

    def results(self, config: Json, said: Json) -> Json:
        """Write the artifacts that an outcome tells of; return it with their addresses."""
        identity, export = config["identity"], said.get("export")
        writer = f"attempt-{identity['attempt']}.{identity['revision']}"
        artifacts = [
            artifact | self._write(config, f"{artifact['kind']}/{writer}")
            for artifact in said.get("artifacts") or ()
        ]
        if export:
            written = self._write(config, f"artifact/{writer}")
            export = export | {"artifact": export["artifact"] | written}
        return said | {"artifacts": artifacts, "export": export}

    def _write(self, config: Json, place: str) -> Json:
        claim = config["location"]["volumeClaim"]
        home = "/".join(["pvc:/", claim["claimName"], claim["path"], config["prefix"]])
        address = f"{home}/{place}"
        if address in self.objects:
            self.broken.append(f"{address} is written twice")
        self.objects[address] = f"sha256:{hashlib.sha256(place.encode()).hexdigest()}"
        return {"uri": address, "digest": self.objects[address]}

    def _steps(self, prefix: str, revision: int) -> dict[int, str]:
        """Return the addresses of the checkpoints of one revision by step."""
        named = {a: _CHECKPOINT.search(a) for a in self.objects if f"/{prefix}/" in a}
        return {int(n[3]): a for a, n in named.items() if n and int(n[2]) == revision}

    def newest_of(self, prefix: str, revision: int) -> str | None:
        """Return the address of the newest checkpoint of a revision."""
        found = self._steps(prefix, revision)
        return found[max(found)] if found else None

    def results_of(self, prefix: str, revision: int) -> set[str]:
        """Return the addresses of what a revision wrote beside its checkpoints."""
        named = {a: _RESULT.search(a) for a in self.objects if f"/{prefix}/" in a}
        return {a for a, n in named.items() if n and int(n[2]) == revision}


def store_is_what_is_told(
    store: PlayedStore, found: Iterable[Json], given: Sequence[str]
) -> list[str]:
    """Compare the store with what the statuses of its writers tell; `given` kinds wrote nothing."""
    ours = [one for one in found if one["kind"] in PLURALS]
    elsewhere = {a for one in ours if one["kind"] in given for a, _ in _told(one.get("status"))}
    writers = [one for one in ours if one["kind"] not in given]
    return [sentence for one in writers for sentence in _misfits(store, one, elsewhere)]


def _misfits(store: PlayedStore, one: Json, elsewhere: set[str]) -> list[str]:
    metadata, status = one["metadata"], one.get("status") or {}
    prefix = storage_prefix(one["kind"], metadata["namespace"], metadata["name"], metadata["uid"])
    revision, told = status.get("revision", 1), dict(_told(status))
    broken = [
        f"{address} is told and not in the store"
        for address, digest in told.items()
        if store.objects.get(address) != digest and address not in elsewhere
    ]
    left = sorted(store.results_of(prefix, revision) - told.keys())
    broken += [f"{address} is in the store and not told" for address in left]
    latest = ((status.get("checkpoints") or {}).get("latest") or {}).get("uri")
    newest = store.newest_of(prefix, revision) if one["kind"] == EXPERIMENT else latest
    return broken + ([] if newest == latest else [f"newest is {newest}, told is {latest}"])


def _told(status: Any) -> Iterator[tuple[str, str]]:
    """Yield address and digest of everything in a status that has both."""
    if isinstance(status, list):
        for part in status:
            yield from _told(part)
    elif isinstance(status, dict):
        if str(status.get("uri", "")).startswith("pvc:") and status.get("digest"):
            yield status["uri"], status["digest"]
        for part in status.values():
            yield from _told(part)
