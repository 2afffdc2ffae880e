"""`finetune validate`."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_cli.commands.cmd_validate import validate

HEAD = "apiVersion: finetune.dev/v1alpha1\nkind: Dataset\nmetadata: {name: one}\n"
GOOD = HEAD + "spec: {sources: [{volumeClaim: {claimName: data}}]}\n"


def test_good_objects_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    assert validate([tmp_path]) == 0
    assert capsys.readouterr().out == "Dataset/one: valid\n"


def test_all_problems_of_all_objects_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(f"{GOOD}  # fine\n---\n{HEAD.replace('one', 'two')}spec: {{layot: x}}\n")
    assert validate([file]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"{file}, document 2: Dataset/two: spec.layot: unknown field; did you mean layout?",
        f"{file}, document 2: Dataset/two: spec.sources: is missing; it is required",
    ]


def test_nothing_to_validate_is_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert validate([tmp_path]) == 1
    assert "no manifest is here" in capsys.readouterr().err
