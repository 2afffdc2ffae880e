"""Generated files are the ones their sources generate; nothing else lies beside them."""

from __future__ import annotations

import pytest

from finetune_cli.commands.cmd_generate import generated_files
from repository.tree import ROOT, files, named

GENERATED = generated_files()
GENERATED_FOLDERS = ("crds/", "docs/reference/", "helm/finetune-operator/templates/crds/")


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_file_is_up_to_date(name: str) -> None:
    path = ROOT / name
    assert path.is_file(), "run `make generate`"
    assert path.read_text(encoding="utf-8") == GENERATED[name], "run `make generate`"


def test_generated_folders_hold_nothing_else() -> None:
    present = {named(path) for path in files() if named(path).startswith(GENERATED_FOLDERS)}
    assert present - set(GENERATED) == set()


def test_every_generated_file_is_tracked_or_about_to_be() -> None:
    assert set(GENERATED) - {named(path) for path in files()} == set()
