"""What the machine must have: root, disk, Go and Debian packages; each lack is one sentence."""

import os
import shutil

from harness.commands import output, succeeds
from harness.errors import RequirementError
from harness.locations import CACHE

PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "s3fs": "s3fs",
    "docker-registry": "docker-registry",
    "ip": "iproute2",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "openssl": "openssl",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
}
"""Program → Debian package. A program that is there by other means needs no package."""

BUILD_GIB = 15
IMAGES_GIB = 25
"""Free space for a first build: Go's caches and the programs; both images in builder, registry and
runtime. Measured 12 and 18."""


def require_root() -> None:
    """Raise RequirementError unless this is root: namespaces, mounts and a bridge need it."""
    if os.geteuid() != 0:
        raise RequirementError("the test cluster needs root: run it with sudo or in a root shell")


def require_go() -> None:
    """Raise RequirementError unless Go is there: Kubernetes is built from its modules."""
    if shutil.which("go") is None:
        raise RequirementError("Go 1.26 or newer is needed to build Kubernetes; put go on PATH")


def require_disk(gib: int) -> None:
    """Raise RequirementError when the file system of the cache has less free space."""
    CACHE.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(CACHE).free >> 30
    if free < gib:
        raise RequirementError(
            f"{CACHE} has {free} GiB free, {gib} are needed; free some, or set FINETUNE_CACHE"
        )


def install_packages() -> None:
    """Install the Debian packages that are missing; a machine that has all is left alone."""
    missing = sorted({name for program, name in PACKAGES.items() if not shutil.which(program)})
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise RequirementError(f"please install: {', '.join(missing)} (no apt-get on this machine)")
    print(f"installing {' '.join(missing)}", flush=True)
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    install = ("apt-get", "install", "-y", "-q", "--no-install-recommends", *missing)
    if not succeeds(*install, env=quiet):
        output("apt-get", "update", "-q", env=quiet)
        output(*install, env=quiet)
