"""The list of features is complete, and what it calls working is proven by a test."""

from __future__ import annotations

import re
from typing import NamedTuple

from repository.tree import ROOT

PAGE = ROOT / "docs" / "features.md"
ROW = re.compile(r"^\| (F-\d{3}) \| (.+?) \| (.+?) \| (.*?) ?\|$", re.MULTILINE)
TEST = re.compile(r"\]\(\.\./(tests/[^)]+)\)")
STATES = re.compile(r"works|partly: .+|planned|out of scope")
RANGES = ((1, 18), (20, 48), (50, 75), (80, 89), (90, 117), (120, 134), (140, 148), (150, 181))


class Feature(NamedTuple):
    number: str
    name: str
    state: str
    tests: str


def features() -> list[Feature]:
    return [Feature(*found) for found in ROW.findall(PAGE.read_text(encoding="utf-8"))]


def test_every_number_stands_in_the_list_once() -> None:
    expected = [f"F-{number:03d}" for low, high in RANGES for number in range(low, high + 1)]
    assert [feature.number for feature in features()] == expected


def test_every_state_is_one_of_four() -> None:
    assert [one.number for one in features() if not STATES.fullmatch(one.state)] == []


def test_what_works_names_tests_that_exist() -> None:
    for feature in features():
        tests = TEST.findall(feature.tests)
        assert bool(tests) == feature.state.startswith(("works", "partly")), feature.number
        assert [test for test in tests if not (ROOT / test).is_file()] == [], feature.number


def test_every_feature_has_a_name_of_its_own() -> None:
    names = [feature.name for feature in features()]
    assert len(names) == len(set(names))
