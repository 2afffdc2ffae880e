"""What the operator image holds, for commands run here as they run there.

Our packages are those that Dockerfile.operator copies, and of the libraries of this machine only
those that its requirements name can be imported, by child processes too.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from repository.tree import ROOT

_COPIED = re.compile(r"^COPY (\S+) /opt/finetune/(\S+)$", re.MULTILINE)
_PINNED = re.compile(r"^([A-Za-z0-9._-]+)==", re.MULTILINE)
_GUARD = """
import sys
from importlib.metadata import packages_distributions

OURS, HELD = {ours!r}, {held!r}
sys.path[:] = [one for one in sys.path if not one.startswith({root!r}) or "/.venv/" in one]
sys.path.insert(0, OURS)
OF = packages_distributions()


class Guard:
    @staticmethod
    def find_spec(name, path=None, target=None):
        given = OF.get(name.partition(".")[0], [])
        if given and not any(one.lower().replace("_", "-") in HELD for one in given):
            raise ModuleNotFoundError(f"{{name}} is not in the operator image")


sys.meta_path.insert(0, Guard)
"""


def environment_of_the_operator_image(folder: Path) -> dict[str, str]:
    """Return an environment in which Python finds what the image holds, and nothing else."""
    ours = folder / "opt"
    ours.mkdir(parents=True)
    for source, name in _COPIED.findall((ROOT / "Dockerfile.operator").read_text()):
        (ours / name).symlink_to(ROOT / source)
    lock = (ROOT / "operator" / "requirements.lock").read_text()
    held = sorted({name.lower().replace("_", "-") for name in _PINNED.findall(lock)})
    guard = folder / "guard"
    guard.mkdir()
    text = _GUARD.format(ours=str(ours), held=held, root=str(ROOT))
    (guard / "sitecustomize.py").write_text(text)
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(guard), "HOME": str(folder)}
