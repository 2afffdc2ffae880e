"""Deals this machine's GPUs to Jobs: all that a Job asks for at once, or none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from finetune_operator.observed import Manifest


def visible_devices(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the ids of the GPUs this process may use."""
    if (named := environment.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in named.split(",") if name.strip() not in ("", "-1")]
    found = (path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
    return sorted(found, key=int)


def devices_asked_for(pod_spec: Manifest) -> int:
    """Return how many GPUs a pod wants: resources with a domain in their name are devices."""
    limits = (
        container.get("resources", {}).get("limits", {}) for container in pod_spec["containers"]
    )
    return sum(int(n) for limit in limits for name, n in limit.items() if "/" in name)


class DevicePool:
    """GPUs of this machine and the Jobs that hold them."""

    def __init__(self, devices: list[str]) -> None:
        self._free, self._count = list(devices), len(devices)
        self._held: dict[str, list[str]] = {}

    def refusal(self, job_uid: str, count: int) -> str:
        """Take `count` devices for a Job; return why that is not possible, or ''."""
        if count == 0 or job_uid in self._held:
            return ""
        if self._count == 0:
            return "no GPU on this machine; set compute.gpusPerNode: 0"
        if count > self._count:
            return (
                f"{count} GPUs are asked for, this machine has {self._count}; "
                "lower compute.nodes or compute.gpusPerNode"
            )
        if count > len(self._free):
            return f"waits for {count} GPUs, {len(self._free)} of {self._count} are free"
        self._held[job_uid] = self._free[:count]
        del self._free[:count]
        return ""

    def share(self, job_uid: str, index: int, count: int) -> list[str]:
        """Return the devices of one pod of a Job."""
        return self._held.get(job_uid, [])[index * count : (index + 1) * count]

    def release(self, job_uid: str) -> None:
        """Take back what a Job held."""
        self._free += self._held.pop(job_uid, [])
