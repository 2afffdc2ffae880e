"""Where encoded samples lie: in the folder of the experiment that encoded them, and go with it.

Beside the experiments of a namespace lie pointers, `encodings/KEY/EXPERIMENT/FOLDER`, that hold
nothing but the digest of a manifest. A pointer's name says its target, inside the same namespace.
"""

from __future__ import annotations

import re

_EXPERIMENT, _FOLDER = r"[a-z0-9][a-z0-9.-]*", r"encoded-\d+-\d+-[a-z]+(?:\.\d+)?"
_POINTER = re.compile(rf"encodings/[0-9a-f]{{64}}/({_EXPERIMENT}/{_FOLDER})")


def pointers(key: str) -> str:
    """Return the folder of the pointers of a key, below the namespace's."""
    return f"encodings/{key}/"


def target(pointer: str) -> str | None:
    """Return the folder that a pointer names, below the namespace's; None for other names."""
    found = _POINTER.fullmatch(pointer)
    return found[1] if found else None
