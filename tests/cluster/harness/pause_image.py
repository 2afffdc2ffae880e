"""The sandbox image of every pod: one static program, made without an image builder."""

import hashlib
import io
import json
import platform
import tarfile

from harness.binaries import program
from harness.container_runtime import PAUSE_IMAGE, ctr, has_image
from harness.locations import STATE


def load_pause_image() -> None:
    """Give containerd the sandbox image, unless it has it."""
    if has_image(PAUSE_IMAGE):
        return
    archive = STATE / "pause.tar"
    archive.write_bytes(_image(_tar({"pause": program("pause").read_bytes()})))
    ctr("images", "import", archive)
    archive.unlink()


def _image(layer: bytes) -> bytes:
    """Return the image in the archive format of `docker save`: the simplest containerd reads."""
    configuration = {
        "architecture": _architecture(),
        "os": "linux",
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [PAUSE_IMAGE], "Layers": ["layer.tar"]}]
    files = {"layer.tar": layer, "config.json": _json(configuration)}
    return _tar({**files, "manifest.json": _json(manifest)})


def _architecture() -> str:
    """Return Go's word for this machine's processor."""
    return {"aarch64": "arm64", "x86_64": "amd64"}.get(platform.machine(), platform.machine())


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
