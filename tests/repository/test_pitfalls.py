"""Every pitfall that the page names is guarded by a test that exists under that name."""

from __future__ import annotations

import re

from repository.tree import ROOT

PAGE = ROOT / "docs" / "pitfalls.md"
ROW = re.compile(r"^\| (?!What|-)(.+) \| (.+) \| \[(.+)\]\(\.\./(tests/.+\.py)\) \|$", re.MULTILINE)


def test_every_pitfall_has_its_test() -> None:
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    assert len(rows) > 40
    for what, _, name, path in rows:
        source = (ROOT / path).read_text(encoding="utf-8")
        assert f"def test_{name.replace(' ', '_')}(" in source, what


def test_every_row_of_the_page_is_read() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    told = [line for line in lines if line.startswith("| ") and not line.startswith("| What ")]
    assert len(told) == len(ROW.findall(PAGE.read_text(encoding="utf-8")))
