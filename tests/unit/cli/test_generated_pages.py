"""`finetune generate`: the generated files of the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_api.crds import SERVED_KINDS, schema_of
from finetune_cli.commands.cmd_generate import generate, generated_files
from finetune_cli.kind_pages import kind_page


def test_only_files_that_differ_are_written(tmp_path: Path) -> None:
    assert len(generate(tmp_path)) == len(generated_files())
    page = tmp_path / "docs" / "reference" / "dataset.md"
    page.write_text("old")
    assert generate(tmp_path) == [page]
    assert generate(tmp_path) == []


@pytest.mark.parametrize("kind", SERVED_KINDS)
def test_the_page_of_a_kind_has_every_field_with_its_default(kind: str) -> None:
    fields = kind_page(kind).split("## What is refused")[0]
    rows = {line.split(" | ")[0]: line for line in fields.splitlines()}
    spec = schema_of(kind)["properties"]["spec"]
    for block, schema in spec["properties"].items():
        assert " ".join(schema["description"].split()) in rows[f"| `spec.{block}`"]
        for name, field in schema.get("properties", {}).items():
            row = rows[f"| `spec.{block}.{name}`"]
            assert str(field.get("maximum", "")) in row
            assert all(word in row for word in field.get("enum", ()))


def test_a_cell_with_a_bar_does_not_end_its_column() -> None:
    row = next(line for line in kind_page("ModelExport").splitlines() if "maxShardSize`" in line)
    assert r"(m\|k\|Ki" in row
