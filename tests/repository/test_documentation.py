"""What the documentation and the examples say is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from finetune_cli.read_manifests import read_manifests
from finetune_operator.cluster.local_admission import admit
from repository.tree import ROOT, files, named

PAGES = [path for path in files() if path.suffix == ".md"]
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]+)(?:#[^)]*)?\)")
YAML_BLOCK = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = LINK.findall(CODE.sub("", page.read_text(encoding="utf-8")))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_example_is_admitted() -> None:
    documents = read_manifests([ROOT / "examples" / "quickstart"])
    assert documents
    for document in documents:
        admit(document.manifest)


def test_every_manifest_in_the_documentation_is_admitted(tmp_path: Path) -> None:
    for number, block in enumerate(manifests_in_pages()):
        file = tmp_path / f"{number}.yaml"
        file.write_text(block, encoding="utf-8")
        for document in read_manifests([file]):
            admit(document.manifest)


def manifests_in_pages() -> list[str]:
    """Return the blocks of YAML in pages that hold whole objects of ours."""
    blocks = [b for page in PAGES for b in YAML_BLOCK.findall(page.read_text(encoding="utf-8"))]
    return [b for b in blocks if "apiVersion: finetune.dev/" in b and "\nspec:" in b]
