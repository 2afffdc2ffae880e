"""How many processor cores this pod may use."""

from __future__ import annotations

import os
from pathlib import Path

LIMIT = Path("/sys/fs/cgroup/cpu.max")


def available_cores() -> int:
    """Return the cores of the affinity mask, or of the pod's limit if that is less; at least 1."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = LIMIT.read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))
