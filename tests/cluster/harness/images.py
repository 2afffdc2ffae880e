"""The two images of the project, from their Dockerfiles into the cluster's containerd.

They travel through a registry on loopback that runs only meanwhile: the layer with the
dependencies (6 GB in the trainer) is pushed and unpacked once, a change of code costs seconds.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

from harness.base_image import base_image
from harness.commands import output
from harness.container_runtime import ctr
from harness.errors import HarnessError
from harness.image_builder import build_image, image_exists, prune, push_image
from harness.locations import IMAGES, REGISTRY, REPOSITORY, STATE
from harness.machine import IMAGES_GIB, install_packages, require_disk, require_root
from harness.processes import pid_of, start, stop, wait_for_answer

OPERATOR_IMAGE = "localhost/finetune-operator:dev"
TRAINER_IMAGE = "localhost/finetune-trainer:dev"
_RECIPES = {OPERATOR_IMAGE: "Dockerfile.operator", TRAINER_IMAGE: "Dockerfile.trainer"}


def load_images() -> None:
    """Build both images and give them to the running cluster under their names."""
    require_root()
    install_packages()
    if pid_of("containerd") is None:
        raise HarnessError("the cluster is down; start it with `up` first")
    if not image_exists(TRAINER_IMAGE):
        require_disk(IMAGES_GIB)
    arguments = {"BASE_IMAGE": base_image(), "UV_CACHE_DIR": "/var/cache/uv"}
    with _registry():
        for name, recipe in _RECIPES.items():
            begun = time.monotonic()
            build_image(name, REPOSITORY / recipe, REPOSITORY, arguments)
            _load(name)
            print(f"{name} is in the cluster after {time.monotonic() - begun:.0f} s", flush=True)
    prune()
    _forget_old_images()


def _load(name: str) -> None:
    push_image(name, REGISTRY)
    pulled = f"{REGISTRY}/{name.partition('/')[2]}"
    ctr("images", "pull", "--plain-http", pulled)
    ctr("images", "tag", "--force", pulled, name)
    ctr("images", "rm", pulled)


def _forget_old_images() -> None:
    """Remove containerd's nameless entries of images that a newer build has replaced."""
    lines = [line.split() for line in ctr("images", "ls").splitlines()[1:]]
    targets = {line[0]: line[2] for line in lines}
    named = {target for name, target in targets.items() if not name.startswith("sha256:")}
    for name, target in targets.items():
        if target not in named:
            ctr("images", "rm", name)


@contextmanager
def _registry() -> Iterator[None]:
    """Run a registry with the layers of the last builds; what those no longer name is removed."""
    configuration, layers = STATE / "registry.json", IMAGES / "registry"
    content = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(layers)}},
        "http": {"addr": REGISTRY},
    }
    configuration.write_text(json.dumps(content), encoding="utf-8")
    stop("registry")
    if layers.exists():
        output("docker-registry", "garbage-collect", "--delete-untagged", configuration)
    start("registry", ["docker-registry", "serve", configuration])
    try:
        wait_for_answer("registry", f"http://{REGISTRY}/v2/")
        yield
    finally:
        stop("registry")
