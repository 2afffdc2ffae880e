"""The folders of the controllers beside those of Kubernetes, built from their Go modules.

A folder holds `manager`, the program; `crds.yaml` and `webhooks.yaml`, its definitions and webhook
configurations as its own kustomizations render them.
"""

import shutil
from pathlib import Path

from harness.binaries import CONTROLLERS, SOURCES, VOLCANO, Build, ensure_built, program
from harness.commands import output

_PARTS = {"crds.yaml": "crd", "webhooks.yaml": "webhook"}


def build_controllers() -> dict[str, Path]:
    """Return the folder of each controller by its name, built if the cache lacks it."""
    return {build.name: _folder(build) for build in CONTROLLERS}


def build_volcano() -> Path:
    """Return Volcano's folder: `scheduler`, `controller-manager`, `crds.yaml`, `scheduler.conf`."""
    ensure_built(VOLCANO)
    folder = VOLCANO.folder
    if not (folder / "crds.yaml").exists():
        chart = _sources("volcano.sh/volcano", VOLCANO) / "installer" / "helm" / "chart" / "volcano"
        shutil.copyfile(chart / "config" / "volcano-scheduler.conf", folder / "scheduler.conf")
        definitions = sorted(chart.glob("**/crd/bases/*.yaml"))
        (folder / "crds.yaml").write_text("\n---\n".join(one.read_text() for one in definitions))
    return folder


def _sources(module: str, build: Build) -> Path:
    """Return where the sources of a module lie that a build pins."""
    words = ("go", "list", "-m", "-f", "{{.Dir}}", module)
    return Path(output(*words, cwd=SOURCES / str(build.module)).strip())


def _folder(build: Build) -> Path:
    ensure_built(build)
    if not (build.folder / "manager").exists():
        parts = _sources(f"sigs.k8s.io/{build.name}", build) / "config" / "components"
        for file, part in _PARTS.items():
            rendered = output(program("kubectl"), "kustomize", parts / part)
            (build.folder / file).write_text(rendered, encoding="utf-8")
        (build.folder / "manager").symlink_to(build.name)
    return build.folder
