"""Oldest releases of libraries that are safe to use, compared with what is installed.

The requirement files ask for at least as much; this holds in images that others have built too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version

OPERATOR_FLOORS = {
    "kopf": (1, 45),  # before 1.44 a watch that fell silent stayed deaf
}
TRAINER_FLOORS = {
    "transformers": (5, 3),  # CVE-2026-4372: config.json ran code; CVE-2026-1839: pickled state
    "torch": (2, 6),  # CVE-2025-32434: weights_only was bypassed
    "jinja2": (3, 1, 6),  # CVE-2025-27516: chat templates broke out of the sandbox
    "huggingface_hub": (1, 2),  # honours the rate limits of the hub
}
TRAINER_REFUSES = ("kernels",)
"""Packages that must be absent: this one fetches code that a model's configuration names."""


def installed_version(name: str) -> str | None:
    """Return the version of an installed package, None without it."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def unsafe_packages(
    floors: Mapping[str, tuple[int, ...]],
    refused: tuple[str, ...] = (),
    installed: Callable[[str], str | None] = installed_version,
) -> list[str]:
    """Return a sentence for each package that is too old or must not be there."""
    found = {name: text for name in floors if (text := installed(name))}
    old = [
        f"{name} {text} is older than {'.'.join(map(str, floors[name]))}"
        for name, text in found.items()
        if _numbers(text) < floors[name]
    ]
    return old + [f"{name} must not be installed" for name in refused if installed(name)]


def _numbers(text: str) -> tuple[int, ...]:
    release = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, release[0].split("."))) if release else ()
