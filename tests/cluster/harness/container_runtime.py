"""A containerd of our own: socket, state and images apart from one the host may already run.

Its image store lies in the cache and outlives the cluster; its containers do not.
"""

import json
from contextlib import suppress
from pathlib import Path

from harness.commands import output, succeeds
from harness.locations import CONTAINERD_ROOT, CONTAINERD_SOCKET, STATE
from harness.network import CNI_CONFIGURATION, CNI_PLUGINS
from harness.processes import end, pid_of, start, stop, wait_until

PAUSE_IMAGE = "localhost/pause:dev"
_RUNTIME_STATE = STATE / "containerd"

_CONFIGURATION = f"""\
version = 2
root = "{CONTAINERD_ROOT}"
state = "{_RUNTIME_STATE}"
disabled_plugins = [
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs",
]
[grpc]
address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
stream_server_address = "127.0.0.1"
# Lowering it needs CAP_SYS_RESOURCE, which containers and CI machines often lack.
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{CNI_PLUGINS}"
conf_dir = "{CNI_CONFIGURATION}"
"""


def start_container_runtime() -> None:
    """Start containerd with its images, without containers of an earlier cluster."""
    if pid_of("containerd") is not None:
        return
    STATE.mkdir(parents=True, exist_ok=True)
    CONTAINERD_ROOT.mkdir(parents=True, exist_ok=True)
    configuration = STATE / "containerd.toml"
    configuration.write_text(_CONFIGURATION, encoding="utf-8")
    start("containerd", ["containerd", "--config", configuration, "--log-level", "warn"])
    wait_until("containerd", lambda: succeeds(*_ctr("version")), timeout=30)


def ctr(*arguments: str | Path) -> str:
    """Run containerd's client in the namespace that the kubelet uses."""
    return output(*_ctr(*arguments))


def has_image(name: str) -> bool:
    """Whether containerd has an image of this name."""
    return name in ctr("images", "ls", "-q").split()


def remove_containers() -> None:
    """End every container and forget it, with its network namespace; images stay.

    The kubelet must be down. Without a running containerd left-over shims are ended and the
    namespaces are known from the containers' bundles alone.
    """
    namespaces = _network_namespaces()
    if pid_of("containerd") is not None:
        for name in ctr("containers", "ls", "-q").split():
            succeeds(*_ctr("tasks", "delete", "--force", name))
            succeeds(*_ctr("containers", "delete", name))
    for shim in _shims():
        end(shim, grace_seconds=1)
    for name in namespaces:
        succeeds("ip", "netns", "delete", name)


def stop_container_runtime() -> None:
    """Stop containerd and remove its state."""
    stop("containerd")
    for shim in _shims():
        end(shim, grace_seconds=1)


def _ctr(*arguments: str | Path) -> tuple[str | Path, ...]:
    return ("ctr", "--address", CONTAINERD_SOCKET, "--namespace", "k8s.io", *arguments)


def _network_namespaces() -> set[str]:
    found = set()
    for bundle in _RUNTIME_STATE.glob("io.containerd.runtime.v2.task/k8s.io/*/config.json"):
        with suppress(OSError, ValueError):
            specification = json.loads(bundle.read_text(encoding="utf-8"))
            for each in specification["linux"]["namespaces"]:
                path = Path(each.get("path", "/"))
                if each["type"] == "network" and path.parent.name == "netns":
                    found.add(path.name)
    return found


def _shims() -> list[int]:
    """Pids of container shims of our socket: they outlive containerd and are nobody else's."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):
                words = (process / "cmdline").read_bytes().split(b"\0")
                if b"-address" in words and str(CONTAINERD_SOCKET).encode() in words:
                    found.append(int(process.name))
    return found
