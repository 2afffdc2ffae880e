"""The whole cluster: up, down, and what is healthy, in the order its parts need each other."""

import os
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from harness import control_plane, metrics_store, name_server, node, object_store
from harness.binaries import build_all, program
from harness.bucket_mount import unmount
from harness.container_runtime import remove_containers, stop_container_runtime
from harness.errors import HarnessError
from harness.locations import KUBECONFIG, MOUNT, STATE
from harness.machine import install_packages, require_root
from harness.network import raise_bridge, remove_bridge
from harness.processes import end, pid_of, recorded, stop

_PROCESSES = (
    *node.PROCESSES,
    *name_server.PROCESSES,
    *metrics_store.PROCESSES,
    *control_plane.PROCESSES,
    "containerd",
    *object_store.PROCESSES,
)
"""In the order in which they stop: the kubelet first, or it would start what is being removed."""

_PATIENCE_SECONDS = 60
_CONTROL_GROUPS = Path("/sys/fs/cgroup")


def up() -> None:
    """Bring the cluster to readiness: a healthy one is reused, anything else begins anew.

    Raises RequirementError when the machine lacks something, NotReadyError when a part does not
    start.
    """
    require_root()
    install_packages()
    build_all()
    if _becomes_healthy():
        print("the cluster is up")
        return
    down()
    begun = time.monotonic()
    STATE.mkdir(parents=True)
    STATE.chmod(0o711)
    raise_bridge()
    object_store.start_object_store()
    control_plane.start_control_plane()
    node.start_node()
    name_server.start_name_server()
    metrics_store.start_metrics_store()
    name_server.wait_for_name_server()
    metrics_store.wait_for_metrics_store()
    node.wait_for_node()
    print(f"the cluster is ready after {time.monotonic() - begun:.0f} s")


def _becomes_healthy() -> bool:
    """Give a loaded machine time: a late heartbeat is no reason to remove a cluster in use."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not healthy():
        if None in process_states().values() or time.monotonic() > deadline:
            return False
        time.sleep(1)
    return True


def healthy() -> bool:
    """Whether every process runs, the API server is ready, the node too, and the mount answers."""
    if any(pid_of(name) is None for name in _PROCESSES):
        return False
    try:
        return MOUNT.is_mount() and control_plane.api_is_ready() and node.node_is_ready()
    except (HarnessError, OSError):
        return False


def process_states() -> dict[str, int | None]:
    """Return each process of the cluster with its pid, None when it does not run."""
    return {name: pid_of(name) for name in _PROCESSES}


def down() -> None:
    """End all processes and remove everything but the cache of binaries and images.

    Also what is left of a cluster whose machine was switched off.
    """
    require_root()
    for name in node.PROCESSES:
        stop(name)
    if STATE.exists():
        remove_containers()
    for name in _PROCESSES:
        stop(name)
    for name in recorded():
        stop(name)
    stop_container_runtime()
    _end_orphans()
    unmount()
    _unmount_all()
    if program("kube-proxy").exists() and KUBECONFIG.exists():
        subprocess.run([program("kube-proxy"), "--cleanup"], check=False, capture_output=True)
    remove_bridge()
    shutil.rmtree(STATE, ignore_errors=True)
    if STATE.exists():
        raise HarnessError(f"{STATE} cannot be removed; look for mounts below it")


def _end_orphans() -> None:
    """End processes of pods that lost their shim, found by the kubelet's control groups."""
    groups = [*_CONTROL_GROUPS.glob("kubepods"), *_CONTROL_GROUPS.glob("*/kubepods")]
    for root in groups:
        for group in root.rglob("cgroup.procs"):
            for pid in group.read_text(encoding="utf-8").split():
                end(int(pid), grace_seconds=0)
        for folder, _, _ in os.walk(root, topdown=False):
            with suppress(OSError):
                Path(folder).rmdir()


def _unmount_all() -> None:
    """Unmount what lies below the state: volumes, container file systems, the bucket."""
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    points = [line.split()[4].replace("\\040", " ") for line in mounts]
    for point in reversed(points):
        if point.startswith(f"{STATE}/"):
            subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)
