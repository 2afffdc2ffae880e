"""What keeps the operator from starting: wrong settings, unsafe libraries."""

from __future__ import annotations

import logging

import pytest
import structlog

from finetune_operator import __main__ as program


@pytest.fixture(autouse=True)
def _logging_stays_as_it_is():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_an_unsafe_library_ends_the_process_before_it_connects(monkeypatch, capfd):
    monkeypatch.setenv("FINETUNE_OPERATOR_TRAINER_IMAGE", "trainer:test")
    monkeypatch.setattr(program, "unsafe_packages", lambda _: ["kopf 1.43 is older than 1.45"])
    monkeypatch.setattr(program.process, "run", lambda _: pytest.fail("it was started"))
    assert program.main() == 1
    assert "kopf 1.43 is older than 1.45" in capfd.readouterr().err


def test_wrong_settings_are_told_by_their_names(monkeypatch, capfd):
    monkeypatch.delenv("FINETUNE_OPERATOR_TRAINER_IMAGE", raising=False)
    monkeypatch.setenv("FINETUNE_OPERATOR_WORKERS", "0")
    assert program.main() == 2
    assert "workers" in capfd.readouterr().err
