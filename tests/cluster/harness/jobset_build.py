"""The folder of a JobSet controller, built from its Go module.

It holds `manager`, the program; `crds/`, its CustomResourceDefinitions; and `webhooks.yaml`, its
webhook configurations as its own kustomization renders them.
"""

import shutil
from pathlib import Path

from harness.binaries import JOBSET, SOURCES, ensure_built, program
from harness.commands import output

_MODULE = "sigs.k8s.io/jobset"


def build_jobset() -> Path:
    """Return the folder of the controller, built if the cache lacks it."""
    ensure_built(JOBSET)
    folder = JOBSET.folder
    if not (folder / "webhooks.yaml").exists():
        listed = output("go", "list", "-m", "-f", "{{.Dir}}", _MODULE, cwd=SOURCES / "jobset")
        parts = Path(listed.strip()) / "config" / "components"
        (folder / "crds").mkdir(exist_ok=True)
        for definition in (parts / "crd" / "bases").glob("*.yaml"):
            shutil.copyfile(definition, folder / "crds" / definition.name)
        (folder / "manager").unlink(missing_ok=True)
        (folder / "manager").symlink_to("jobset")
        rendered = output(program("kubectl"), "kustomize", parts / "webhook")
        (folder / "webhooks.yaml").write_text(rendered, encoding="utf-8")
    return folder
