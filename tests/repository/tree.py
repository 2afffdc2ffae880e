"""The files of the repository, as Git knows them and as they lie there."""

from __future__ import annotations

import ast
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
_TEXT = {".py", ".md", ".yaml", ".yml", ".toml", ".json", ".in", ".lock", ".tpl", ".html", ".css",
         ".cfg", ".sh", ".go", ".txt", ""}  # fmt: skip


@cache
def files() -> tuple[Path, ...]:
    """Return tracked files and new ones that Git would not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = (ROOT / name for name in sorted(set(listed.splitlines())))
    return tuple(path for path in paths if path.is_file())


def text_files() -> list[Path]:
    """Return the files that people read."""
    return [path for path in files() if path.suffix in _TEXT]


def modules() -> list[Path]:
    """Return all Python modules."""
    return [path for path in files() if path.suffix == ".py"]


@cache
def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a module."""
    return ast.parse(path.read_text(encoding="utf-8"))


def named(path: Path) -> str:
    """Return a path as the repository names it."""
    return str(path.relative_to(ROOT))
