"""How many processor cores this pod may use."""

from __future__ import annotations

import os
from pathlib import Path

LIMIT = Path("/sys/fs/cgroup/cpu.max")
"""Control groups v2: quota and period, or `max` and period."""
LIMIT_V1 = Path("/sys/fs/cgroup/cpu")
"""Control groups v1: quota (-1 = none) and period in files of their own."""
FILES_V1 = ("cpu.cfs_quota_us", "cpu.cfs_period_us")


def available_cores() -> int:
    """Return the cores of the affinity mask, or of the pod's limit if that is less; at least 1."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = _quota()
    except (OSError, ValueError):
        return cores
    return max(1, min(cores, quota // period)) if quota > 0 else cores


def _quota() -> tuple[int, int]:
    if LIMIT.exists():
        quota, period = LIMIT.read_text().split()
        return (-1 if quota == "max" else int(quota)), int(period)
    quota, period = ((LIMIT_V1 / name).read_text() for name in FILES_V1)
    return int(quota), int(period)
