"""Runs child Jobs as processes of this machine: the Job controller and the kubelet in one.

A Job's pods all start, or none; one that fails ends them all; a pod's last state is written
before it goes, as in a cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from finetune_operator.cluster import local_pod_status
from finetune_operator.cluster.cluster_protocol import Change
from finetune_operator.cluster.local_devices import DevicePool, devices_asked_for
from finetune_operator.cluster.local_objects import LocalObjects, ObjectKey, object_key, timestamp
from finetune_operator.cluster.local_pod_status import has_ended, index_of, owner_uid, pod_of
from finetune_operator.cluster.local_pods import LocalPod, free_port
from finetune_operator.cluster.local_volumes import LocalVolumes, NotMountedError, PodRoot
from finetune_operator.observed import Manifest

LOOK_AGAIN_SECONDS = 1.0
"""How often a pod that lacks a volume or a GPU looks whether it is there now."""
FAILED_MESSAGE = "Job has reached the specified backoff limit"


class LocalJobs:
    """Brings Jobs and Pods of the object store to life until cancelled."""

    def __init__(
        self, objects: LocalObjects, volumes: LocalVolumes, logs: Path, *,
        devices: DevicePool, program: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self._objects, self._volumes, self._logs = objects, volumes, logs
        self._devices, self._program = devices, program
        self._running: dict[ObjectKey, LocalPod] = {}
        self._ports: dict[str, int] = {}
        self._master_ports: dict[str, int] = {}
        self._changed = asyncio.Event()
        objects.listen(self._note)

    async def run(self) -> None:
        """Run Jobs; when cancelled, every process is killed."""
        self._bury_the_lost()
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                for job in self._objects.items("Job"):
                    self._advance(job)
                for pod in self._objects.items("Pod"):
                    self._attend(pod, group)
                await self._changed.wait()

    def progress_port(self, pod_uid: str) -> int | None:
        """Return the loopback port on which a running pod answers."""
        return self._ports.get(pod_uid)

    def log_file(self, pod_name: str) -> Path:
        """Return the file with the output of a pod."""
        return self._logs / f"{pod_name}.log"

    def _note(self, change: Change) -> None:
        if change.item["kind"] in ("Job", "Pod"):
            self._changed.set()

    def _bury_the_lost(self) -> None:
        """Give pods an end whose processes died with the `finetune` that ran them."""
        for pod in self._objects.items("Pod"):
            if pod["status"]["phase"] == "Running":
                self._set_status(object_key(pod), local_pod_status.lost())

    def _advance(self, job: Manifest) -> None:
        """Create the pods of a new Job, judge a running one."""
        if any(c["type"] in ("Complete", "Failed") for c in _conditions(job)):
            return
        if "startTime" not in job.get("status", {}):
            if not job["spec"].get("suspend"):
                self._start(job)
            return
        uid, completions = job["metadata"]["uid"], job["spec"].get("completions", 1)
        pods = [pod for pod in self._objects.items("Pod") if owner_uid(pod) == uid]
        succeeded = sum(pod["status"]["phase"] == "Succeeded" for pod in pods)
        active = [pod for pod in pods if not has_ended(pod)]
        if succeeded == completions:
            self._end(job, "Complete", "CompletionsReached", "Reached expected number of pods")
        elif succeeded + len(active) < completions:
            for pod in active:
                self._objects.delete(object_key(pod))
            if not active:
                self._end(job, "Failed", "BackoffLimitExceeded", FAILED_MESSAGE)

    def _start(self, job: Manifest) -> None:
        for index in range(job["spec"].get("completions", 1)):
            self._objects.create(pod_of(job, index))
        self._set_status(object_key(job), {"startTime": timestamp()})

    def _end(self, job: Manifest, kind: str, reason: str, message: str) -> None:
        conditions = [local_pod_status.job_condition(kind, reason, message)]
        self._set_status(object_key(job), {**job["status"], "conditions": conditions})
        self._release(job["metadata"]["uid"])

    def _release(self, job_uid: str) -> None:
        self._devices.release(job_uid)
        self._master_ports.pop(job_uid, None)

    def _attend(self, pod: Manifest, group: asyncio.TaskGroup) -> None:
        """Start a new pod, stop one that is to go, remove one that is over."""
        key, process = object_key(pod), self._running.get(object_key(pod))
        going = "deletionTimestamp" in pod["metadata"]
        if process is not None:
            if going:
                process.stop()
        elif going:
            self._objects.remove(key)
            self._volumes.unmount(key.name)
        elif not has_ended(pod):
            self._running[key] = process = self._process(pod)
            group.create_task(self._live(key, pod, process))

    def _process(self, pod: Manifest) -> LocalPod:
        job, count = owner_uid(pod), devices_asked_for(pod["spec"])
        self._ports[pod["metadata"]["uid"]] = port = free_port()
        return LocalPod(
            pod,
            log=self.log_file(pod["metadata"]["name"]),
            port=port,
            master_port=self._master_ports.setdefault(job, free_port()),
            devices=lambda: self._devices.share(job, index_of(pod), count),
            program=self._program,
        )

    async def _live(self, key: ObjectKey, pod: Manifest, process: LocalPod) -> None:
        """Wait for what the pod needs, run it, write its end."""
        try:
            while isinstance(root := self._root(pod), dict):
                self._set_status(key, root)
                if await process.is_stopped_within(LOOK_AGAIN_SECONDS):
                    return
            status = await process.run(root, lambda: self._bind(key))
            self._set_status(key, status)
            self._volumes.unmount(key.name)
        finally:
            del self._running[key]
            self._ports.pop(pod["metadata"]["uid"], None)
            self._changed.set()

    def _root(self, pod: Manifest) -> PodRoot | Manifest:
        """Return the pod's mounted root, or the status of a pod that cannot start yet."""
        job = self._job(pod)
        count = devices_asked_for(pod["spec"]) * (job["spec"].get("completions", 1) if job else 1)
        if refusal := self._devices.refusal(owner_uid(pod), count):
            return local_pod_status.unscheduled(refusal)
        try:
            return self._volumes.mount(pod)
        except NotMountedError as error:
            return local_pod_status.waiting(error.reason, str(error))

    def _job(self, pod: Manifest) -> Manifest | None:
        metadata = pod["metadata"]
        name = metadata["ownerReferences"][0]["name"]
        return self._objects.read(ObjectKey("Job", metadata["namespace"], name))

    def _bind(self, key: ObjectKey) -> None:
        """Write that the pod is on a node and runs."""

        def bound(pod: Manifest) -> None:
            pod["spec"]["nodeName"] = local_pod_status.NODE
            pod["status"] = local_pod_status.running()

        self._objects.change(key, bound)

    def _set_status(self, key: ObjectKey, status: Manifest) -> None:
        present = self._objects.read(key)
        if present is None or _same_but_time(present.get("status", {}), status):
            return
        self._objects.change(key, lambda item: item.update(status=status))


def _conditions(job: Manifest) -> list[Manifest]:
    conditions: list[Manifest] = job.get("status", {}).get("conditions", [])
    return conditions


def _same_but_time(left: Manifest, right: Manifest) -> bool:
    """Tell whether a pod that waits still waits for the same thing."""

    def timeless(status: Manifest) -> Manifest:
        conditions = [
            {name: part for name, part in c.items() if name != "lastTransitionTime"}
            for c in status.get("conditions", [])
        ]
        return {**status, "conditions": conditions}

    return timeless(left) == timeless(right)
