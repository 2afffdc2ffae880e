"""Processes of pods as the host sees them, for faults that no API call makes."""

import os
import signal

from harness.container_runtime import ctr
from harness.kubectl import fetch


def pod_pids(namespace: str, pod: str, container: str | None = None) -> list[int]:
    """Return the pids of the first process of each running container, or of one container."""
    status = fetch("pod", pod, namespace=namespace).get("status", {})
    wanted = {
        each["containerID"].rpartition("/")[2]
        for each in status.get("containerStatuses", ())
        if "running" in each.get("state", {}) and container in (None, each["name"])
    }
    lines = [line.split() for line in ctr("tasks", "ls").splitlines()[1:]]
    return [int(pid) for name, pid, state in lines if name in wanted and state == "RUNNING"]


def process_tree(pid: int) -> list[int]:
    """Return a process and all its descendants: a rank pod's first process starts the others."""
    tree = [pid]
    for parent in tree:
        try:
            with open(f"/proc/{parent}/task/{parent}/children", encoding="utf-8") as children:
                tree.extend(int(child) for child in children.read().split())
        except OSError:
            continue
    return tree


def signal_pod(
    namespace: str, pod: str, which: int = signal.SIGKILL, container: str | None = None
) -> list[int]:
    """Send a signal to the first process of the pod's containers, from outside of the pod.

    Returns the pids. SIGKILL is what the kernel does to a process; SIGSTOP makes a silent rank.
    """
    pids = pod_pids(namespace, pod, container)
    for pid in pids:
        os.kill(pid, which)
    return pids
