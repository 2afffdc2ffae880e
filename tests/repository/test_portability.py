"""Nothing in the repository depends on, or tells of, the machine it was written on."""

from __future__ import annotations

import re

from repository.tree import named, text_files

HOME_PATH = re.compile(r"(?<![\w.$}{])/(?:root|home|work|Users)/\w")
INDEX = re.compile(r"^\s*(?:--(?:extra-)?index-url|--find-links|--trusted-host)\b", re.MULTILINE)
SECRET = re.compile(
    r"AKIA[0-9A-Z]{16}|hf_[A-Za-z]{30,}|gh[pousr]_[A-Za-z0-9]{36}|-----BEGIN [A-Z ]*PRIVATE KEY"
)
LONGEST_FILE_BYTES = 1_000_000


def matching(pattern: re.Pattern[str]) -> list[str]:
    """Return file and text of every match."""
    return [
        f"{named(path)}: {match[0]}"
        for path in text_files()
        for match in pattern.finditer(path.read_text(encoding="utf-8"))
    ]


def test_no_path_of_a_machine_is_written_down() -> None:
    assert matching(HOME_PATH) == []


def test_no_package_index_is_written_down() -> None:
    assert matching(INDEX) == []


def test_no_secret_is_written_down() -> None:
    assert matching(SECRET) == []


def test_every_locked_requirement_has_hashes() -> None:
    for path in text_files():
        if path.suffix != ".lock":
            continue
        entries = re.split(r"\n(?=\S)", path.read_text(encoding="utf-8").strip())
        for entry in entries:
            assert entry.startswith("#") or "--hash=sha256:" in entry, f"{named(path)}: {entry}"


def test_no_large_file_is_kept() -> None:
    large = [named(path) for path in text_files() if path.stat().st_size > LONGEST_FILE_BYTES]
    assert large == []
