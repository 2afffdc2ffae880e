"""The base image: this machine's own Debian release with Python, installed by debootstrap.

There is no image registry to pull from. The mirror is the one apt uses here.
"""

import shutil
import tarfile
import tempfile
from pathlib import Path

from harness.commands import output
from harness.errors import RequirementError
from harness.image_builder import build_image, image_exists
from harness.locations import IMAGES

_PACKAGES = ("ca-certificates", "python3", "python3-venv")
_CONTAINERFILE = "FROM scratch\nADD rootfs.tar /\nENV LANG=C.UTF-8\n"


def base_image() -> str:
    """Return the name of the base image, built when the cache lacks it (about 70 s)."""
    mirror, release = _debian()
    name = f"localhost/finetune-base:{release}"
    if not image_exists(name):
        print(f"building {name} with debootstrap", flush=True)
        _build(name, mirror, release)
    return name


def _build(name: str, mirror: str, release: str) -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=IMAGES, prefix="base-") as folder:
        root, context = Path(folder, "rootfs"), Path(folder, "context")
        include = f"--include={','.join(_PACKAGES)}"
        output("debootstrap", "--variant=minbase", include, release, root, mirror)
        for downloaded in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(root / downloaded, ignore_errors=True)
        context.mkdir()
        with tarfile.open(context / "rootfs.tar", "w") as archive:
            archive.add(root, arcname=".")
        shutil.rmtree(root)
        recipe = context / "Containerfile"
        recipe.write_text(_CONTAINERFILE, encoding="utf-8")
        build_image(name, recipe, context)


def _debian() -> tuple[str, str]:
    """Return address and release name of the Debian archive that apt is configured with."""
    form = "$(REPO_URI) $(CODENAME) $(ORIGIN)"
    lines = output("apt-get", "indextargets", "--format", form, "Created-By: Packages")
    release = _release()
    for line in lines.splitlines():
        mirror, codename, *origin = line.split()
        if codename == release and origin == ["Debian"]:
            return mirror, release
    raise RequirementError(f"apt knows no Debian archive for {release}; run apt-get update")


def _release() -> str:
    for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.partition("=")[2].strip('"')
    raise RequirementError("/etc/os-release names no release; a Debian is needed")
