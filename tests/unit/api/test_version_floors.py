"""Libraries older than their floors stop a process, whatever image it runs in."""

from __future__ import annotations

import re

import pytest

from finetune_api.version_floors import (
    OPERATOR_FLOORS,
    TRAINER_FLOORS,
    TRAINER_REFUSES,
    unsafe_packages,
)
from repository.tree import ROOT

LOCKS = {
    "operator/requirements.lock": OPERATOR_FLOORS,
    "trainer_image/requirements.lock": TRAINER_FLOORS,
}


@pytest.mark.parametrize(
    ("version", "is_safe"),
    [
        ("5.3", True), ("5.3.0", True), ("5.10.1+cu130", True), ("6", True), ("5.3.0rc1", True),
        ("5.2.9", False), ("4.57.1", False), ("5", False), ("unknown", False),
    ],
)  # fmt: skip
def test_versions_compare_as_numbers(version: str, is_safe: bool) -> None:
    found = unsafe_packages({"transformers": (5, 3)}, installed=lambda _: version)
    assert found == ([] if is_safe else [f"transformers {version} is older than 5.3"])


def test_what_is_absent_is_not_too_old() -> None:
    assert unsafe_packages(TRAINER_FLOORS, TRAINER_REFUSES, lambda _: None) == []


def test_a_refused_package_is_named() -> None:
    found = unsafe_packages({}, TRAINER_REFUSES, lambda name: "0.1")
    assert found == ["kernels must not be installed"]


def test_what_is_installed_here_is_safe() -> None:
    assert unsafe_packages(OPERATOR_FLOORS | TRAINER_FLOORS, TRAINER_REFUSES) == []


@pytest.mark.parametrize("lock", LOCKS)
def test_what_the_images_install_is_safe(lock: str) -> None:
    """The images install nothing but these files, by hash."""
    pins = dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT / lock).read_text(), re.MULTILINE))
    locked = {name.replace("-", "_"): version for name, version in pins.items()}
    assert set(LOCKS[lock]) <= set(locked)
    assert unsafe_packages(LOCKS[lock], TRAINER_REFUSES, locked.get) == []
