"""The folders of the controllers beside those of Kubernetes, built from their Go modules.

A folder holds `manager`, the program; `crds.yaml` and `webhooks.yaml`, its definitions and webhook
configurations as its own kustomizations render them.
"""

from pathlib import Path

from harness.binaries import CONTROLLERS, SOURCES, Build, ensure_built, program
from harness.commands import output

_PARTS = {"crds.yaml": "crd", "webhooks.yaml": "webhook"}


def build_controllers() -> dict[str, Path]:
    """Return the folder of each controller by its name, built if the cache lacks it."""
    return {build.name: _folder(build) for build in CONTROLLERS}


def _folder(build: Build) -> Path:
    ensure_built(build)
    if not (build.folder / "manager").exists():
        module = f"sigs.k8s.io/{build.name}"
        words = ("go", "list", "-m", "-f", "{{.Dir}}", module)
        sources = Path(output(*words, cwd=SOURCES / "controllers").strip())
        for file, part in _PARTS.items():
            rendered = output(program("kubectl"), "kustomize", sources / "config/components" / part)
            (build.folder / file).write_text(rendered, encoding="utf-8")
        (build.folder / "manager").symlink_to(build.name)
    return build.folder
