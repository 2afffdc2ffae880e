"""The `Cluster` of one machine: objects in the work directory, Jobs as local processes.

What a real cluster adds - several clients, images, limits of memory and CPU, quota, network
policy - is absent; what would silently not act is refused.
"""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp

from finetune_api.compute_settings import Engine, Gang
from finetune_api.run_progress import MAX_BYTES
from finetune_operator.cluster.cluster_protocol import Change, Page, Resource
from finetune_operator.cluster.local_admission import AdmissionError, admit, admit_status
from finetune_operator.cluster.local_devices import DevicePool, visible_devices
from finetune_operator.cluster.local_jobs import LocalJobs
from finetune_operator.cluster.local_objects import LocalObjects, ObjectKey, object_key
from finetune_operator.cluster.local_volumes import LocalVolumes
from finetune_operator.cluster.resources import OURS, resource_of
from finetune_operator.errors import (
    AbsentError,
    ConflictError,
    RefusedError,
    UnavailableError,
)
from finetune_operator.observed import ChildRef, Key, Manifest

IMAGE = "this-machine"
"""Stands for the installed trainer where a Job names an image."""
NAMESPACE = "default"
PROGRESS_TIMEOUT = aiohttp.ClientTimeout(total=3)
IMMUTABLE_KINDS = ("Job", "ConfigMap")


class WorkDirectoryBusyError(Exception):
    """Another `finetune run` uses the work directory."""


class LocalCluster:
    """One work directory as a cluster. `program` replaces the trainer, for tests."""

    def __init__(
        self, work_dir: Path, *, devices: Sequence[str] | None = None, program: Sequence[str] = ()
    ) -> None:
        self.work_dir = work_dir.absolute()
        self.objects = LocalObjects(self.work_dir / "objects")
        self.volumes = LocalVolumes(
            self.work_dir, lambda ns, name: self.objects.read(ObjectKey("ConfigMap", ns, name))
        )
        pool = DevicePool(visible_devices() if devices is None else list(devices))
        self.jobs = LocalJobs(
            self.objects, self.volumes, self.work_dir / "logs", devices=pool, program=program
        )
        self.events: list[Callable[[Manifest], None]] = []
        """events are called with every Kubernetes Event that is posted."""

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the work directory for this process alone; raises WorkDirectoryBusyError."""
        self.work_dir.mkdir(parents=True, exist_ok=True)
        with (self.work_dir / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise WorkDirectoryBusyError(
                    f"{self.work_dir}: another finetune run uses this work directory; "
                    "wait for it, or choose another --work-dir"
                ) from error
            yield

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run Jobs inside the block; at its end all processes are killed."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.jobs.run())
            try:
                yield
            finally:
                task.cancel()

    def check(self, manifest: Manifest) -> Manifest:
        """Return what `submit` would store; raises AdmissionError with all problems."""
        given = deepcopy(manifest)
        given["metadata"].setdefault("namespace", NAMESPACE)
        old = self.objects.read(object_key(given))
        if old is not None:
            kept = ("uid", "generation", "creationTimestamp", "resourceVersion")
            given["metadata"] |= {name: old["metadata"][name] for name in kept}
        admitted = admit(given, old)
        if problems := _without_effect_here(admitted["spec"]):
            raise AdmissionError(problems)
        return admitted

    def submit(self, manifest: Manifest) -> str:
        """Take a user's manifest as `kubectl apply` would; raises AdmissionError.

        Returns created, configured or unchanged. A suspension that came from outside the
        manifest, by Ctrl-C, ends with it.
        """
        admitted = self.check(manifest)
        if "uid" not in admitted["metadata"]:
            self.objects.create(admitted)
            return "created"
        version = admitted["metadata"]["resourceVersion"]
        newer = self.objects.replace(admitted)
        return "unchanged" if newer["metadata"]["resourceVersion"] == version else "configured"

    def hold(self, config_map: Manifest) -> None:
        """Take a user's ConfigMap, which a spec may refer to."""
        given = deepcopy(config_map)
        given["metadata"].setdefault("namespace", NAMESPACE)
        if self.objects.read(object_key(given)) is None:
            self.objects.create(given)
        else:
            self.objects.replace(given)

    def suspend(self, key: Key) -> None:
        """Set runPolicy.suspend, as a user would with kubectl."""

        def suspended(item: Manifest) -> None:
            item["spec"].setdefault("runPolicy", {})["suspend"] = True

        self.objects.change(_stored(key), suspended)

    def remove(self, key: Key) -> None:
        """Delete an object and everything it owns."""
        self.objects.delete(_stored(key))

    def ours(self) -> list[Manifest]:
        """Return the objects of our kinds in the order Dataset, experiment, export."""
        return [item for kind in OURS for item in self.objects.items(kind)]

    def now(self) -> datetime:
        """Return the time of this machine."""
        return datetime.now(UTC)

    async def served(self, resource: Resource) -> bool:
        """Tell whether objects of this kind can be stored here."""
        try:
            resource_of({"apiVersion": resource.api_version, "kind": resource.kind})
        except KeyError:
            return False
        return True

    async def read(self, resource: Resource, namespace: str, name: str) -> Manifest | None:
        """Return the live object, or None."""
        return self.objects.read(ObjectKey(resource.kind, namespace, name))

    async def pages(
        self, resource: Resource, *, labels: str = "", metadata_only: bool = False
    ) -> AsyncIterator[Page]:
        """List everything on one page."""
        found = [item for item in self.objects.items(resource.kind) if _selects(labels, item)]
        if metadata_only:
            found = [{k: item[k] for k in ("apiVersion", "kind", "metadata")} for item in found]
        yield Page(found, self.objects.version)

    async def changes(
        self, resource: Resource, *, since: str, labels: str = ""
    ) -> AsyncIterator[Change]:
        """Watch from a list's version; raises ExpiredError when that is too old."""
        async for change in self.objects.changes(resource.kind, since=since):
            if change.type == "BOOKMARK" or _selects(labels, change.item):
                yield change

    async def create(self, child: Manifest) -> None:
        """Create the child; ConflictError if something has its name."""
        self.objects.create(child)

    async def apply(self, child: Manifest, *, force: bool) -> Manifest:
        """Create the child, or bring its fields to what is given."""
        del force  # there is one field manager
        key = object_key(child)
        present = self.objects.read(key)
        if present is None:
            return self.objects.create(child)
        merged = {**present, **{k: v for k, v in child.items() if k != "metadata"}}
        merged["metadata"] = {**present["metadata"], **child["metadata"]}
        if key.kind in IMMUTABLE_KINDS and merged != present:
            raise RefusedError(f"{key.kind} {key.name}: field is immutable", status=422)
        return self.objects.replace(merged)

    async def delete(self, child: ChildRef) -> None:
        """Delete if UID and version are those observed; gone is fine."""
        key = ObjectKey(child.kind, child.namespace, child.name)
        present = self.objects.read(key)
        if present is None:
            return
        metadata = present["metadata"]
        if (metadata["uid"], metadata["resourceVersion"]) != (child.uid, child.resource_version):
            raise ConflictError(f"{child.kind} {child.name} changed since it was read", status=409)
        self.objects.delete(key)

    async def write_status(self, key: Key, status: Manifest, *, resource_version: str) -> Manifest:
        """Replace the complete status of the version that was observed."""
        present = self.objects.read(_stored(key))
        if present is None:
            raise AbsentError(f"{key.kind} {key.name} does not exist", status=404)
        if present["metadata"]["resourceVersion"] != resource_version:
            raise ConflictError(f"{key.kind} {key.name} changed since it was read", status=409)
        return self.objects.replace(admit_status(status, present))

    async def post_event(self, event: Manifest) -> None:
        """Hand an Event to whoever listens; none is kept."""
        for listener in self.events:
            listener(event)

    async def queue_about(self, child: ChildRef) -> str:  # noqa: ARG002 - there is no queue
        """Nothing queues on one machine."""
        return ""

    async def warning_about(self, child: ChildRef) -> str:  # noqa: ARG002 - none is kept
        """Return nothing: whatever keeps a local Job from its processes stands in its status."""
        return ""

    async def fetch_progress(self, pod: Manifest) -> bytes:
        """GET /progress of a local pod."""
        port = self.jobs.progress_port(pod["metadata"]["uid"])
        if port is None:
            raise UnavailableError("the pod does not run")
        address = f"http://127.0.0.1:{port}/progress"
        try:
            async with (
                aiohttp.ClientSession(timeout=PROGRESS_TIMEOUT, trust_env=False) as session,
                session.get(address, allow_redirects=False) as answer,
            ):
                body = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UnavailableError(f"no progress answer ({type(error).__name__})") from error
        if answer.status != 200 or len(body) > MAX_BYTES:
            raise UnavailableError(f"progress answer of {len(body)} bytes, status {answer.status}")
        return body


def _stored(key: Key) -> ObjectKey:
    return ObjectKey(key.kind, key.namespace, key.name)


_WITHOUT_EFFECT = {
    ("compute", "image"): "a local run uses the installed trainer",
    ("compute", "gpuProducts"): "a local run uses the GPUs of this machine",
    ("compute", "networkProfile"): "ranks of a local run share one machine",
    ("scheduling", "queueName"): "there is no queue on one machine",
    ("scheduling", "gang"): "all pods of a local run start at once",
    ("scheduling", "topologyKey"): "there is one node",
    ("podOverrides",): "a local run has no pods",
}
"""Settings that a run without images and nodes cannot honour, and why."""


def _without_effect_here(spec: Manifest) -> list[str]:
    """Name the settings of a spec that do nothing here."""
    problems = [
        f"spec.{'.'.join(path)}: {why}"
        for path, why in _WITHOUT_EFFECT.items()
        if _at(spec, path) not in (None, Gang.NONE)
    ]
    if _at(spec, ("scheduling", "engine")) == Engine.JOB_SET:
        problems.append("spec.scheduling.engine: a local run has no JobSets")
    return [f"{problem}; remove it, or run in a cluster" for problem in problems]


def _at(spec: Manifest, path: tuple[str, ...]) -> object:
    found: Any = spec
    for name in path:
        found = (found or {}).get(name)
    return found


def _selects(labels: str, item: Manifest) -> bool:
    """Tell whether an equality selector such as `a=b,c=d` matches."""
    wanted = dict(part.split("=", 1) for part in labels.split(",") if part)
    found = item["metadata"].get("labels") or {}
    return all(found.get(name) == value for name, value in wanted.items())
