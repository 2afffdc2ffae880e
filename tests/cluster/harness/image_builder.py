"""buildah with storage of its own in the cache: every finished step of a Dockerfile is kept.

`--isolation chroot` needs neither user namespaces nor control groups, so that it works inside of
containers and small virtual machines too.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from harness.commands import output, succeeds
from harness.locations import IMAGES

_STORAGE = (
    *("--root", str(IMAGES / "storage")),
    *("--runroot", str(IMAGES / "run")),
    *("--storage-driver", "overlay"),
)
_HOST_FILES = ("/etc/ssl/certs", "/etc/resolv.conf", "/etc/pip.conf")
"""Mounted read-only while a step runs: a network with its own authority or index still works."""


def build_image(
    name: str, recipe: Path, context: Path, arguments: Mapping[str, str] | None = None
) -> None:
    """Build a Dockerfile; steps whose inputs have not changed cost nothing."""
    command = ["build", "--isolation", "chroot", "--layers", "--quiet", "--file", str(recipe)]
    for path in _HOST_FILES:
        if Path(path).exists():
            command += ["--volume", f"{path}:{path}:ro"]
    downloads = uv_cache()
    downloads.mkdir(parents=True, exist_ok=True)
    command += ["--volume", f"{downloads}:/var/cache/uv"]
    for key, value in (arguments or {}).items():
        command += ["--build-arg", f"{key}={value}"]
    buildah(*command, "--tag", name, str(context), timeout=3600)


def image_exists(name: str) -> bool:
    """Whether the storage has an image of this name."""
    return succeeds("buildah", *_STORAGE, "inspect", "--type", "image", name)


def push_image(name: str, registry: str) -> None:
    """Copy an image to a registry on this machine; layers it has do not travel.

    zstd, because compressing 6 GB of CUDA libraries with gzip takes minutes.
    """
    target = f"docker://{registry}/{name.partition('/')[2]}"
    form = ("--compression-format", "zstd", "--format", "oci", "--tls-verify=false")
    buildah("push", "--quiet", *form, name, target, timeout=1800)


def prune() -> None:
    """Remove images that lost their name and that no other is built on."""
    buildah("rm", "--all")  # a build that was killed keeps its container, and that its image
    buildah("rmi", "--prune")


def buildah(*arguments: str, timeout: float = 600) -> str:
    """Run buildah on the storage in the cache."""
    return output("buildah", *_STORAGE, *arguments, timeout=timeout)


def uv_cache() -> Path:
    """Return uv's cache on this machine: what a virtual environment has is not loaded again."""
    if own := os.environ.get("UV_CACHE_DIR"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "uv"
