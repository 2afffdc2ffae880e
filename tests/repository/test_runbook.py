"""The runbook: a section for each reason and alert, conditions as they are told, real fields."""

from __future__ import annotations

import re
from typing import Any

import pytest

from finetune_api.conditions import FAILURE_REASONS, WAITING_REASONS
from finetune_api.crds import crds
from finetune_api.run_outcome import EXIT_CODES, FailureClass
from reason_cases import CASES
from repository.tree import ROOT

TEXT = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
PARTS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))
SECTION = re.compile(r"^### (\w+)\n\n(.*?)(?=^### |\Z)", re.MULTILINE | re.DOTALL)
FIELD = re.compile(r"`((?:spec|status)\.[\w.]+)`")
WHAT = {name: told[-2] for table in (WAITING_REASONS, FAILURE_REASONS) for name, told in
        table.items()}  # fmt: skip


def sections(part: str) -> dict[str, str]:
    """Return the sections of a part by their titles."""
    return dict(SECTION.findall(PARTS[part]))


@pytest.mark.parametrize(
    ("part", "table"), [("Waiting", WAITING_REASONS), ("Failures", FAILURE_REASONS)]
)
def test_every_reason_has_its_section_and_every_section_its_reason(
    part: str, table: dict[str, Any]
) -> None:
    assert list(sections(part)) == list(table)


@pytest.mark.parametrize("reason", WHAT)
def test_a_section_says_what_it_means_how_it_looks_why_and_what_to_do(reason: str) -> None:
    text = (sections("Waiting") | sections("Failures"))[reason]
    what = WHAT[reason]
    assert text.startswith(f"{what[0].upper()}{what[1:]}.\n")
    assert f"```text\n{look(reason)}\n```" in text
    assert text.index("*Why.* ") < text.index("\n1. ") < text.index("*Kept.* ")


def test_every_field_of_a_spec_or_status_exists() -> None:
    assert [path for path in sorted(set(FIELD.findall(TEXT))) if not exists(path)] == []


def test_every_failure_class_is_explained_with_its_exit_code() -> None:
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|", PARTS["Failure classes"], re.MULTILINE)
    told = {name: code for names, code in rows[1:] for name in names.split(", ")}
    ends = {FailureClass.COMPLETED, FailureClass.CHECKPOINTED}
    assert {name for name in told if name != "---"} == {one.value for one in FailureClass} - ends
    for failure in set(FailureClass) - ends:
        if code := EXIT_CODES.get(failure):
            assert told[failure.value].split(",")[0] == str(code)


def test_links_inside_the_page_lead_to_sections() -> None:
    found = re.findall(r"^##+ (.+)$", TEXT, re.MULTILINE)
    titles = {title.lower().replace(" ", "-") for title in found}
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) - titles == set()


def look(reason: str) -> str:
    """Return the condition that a reason's story ends in."""
    case = CASES[reason]
    name = next(iter(case.says))
    found = next(one for one in case.plan.status["conditions"] if one["type"] == name)
    return f"{name}={found['status']} {found['reason']}: {found['message']}"


def exists(path: str) -> bool:
    """Tell whether a path is a field of one of our kinds."""
    return any(leads_to_a_field(path, crd) for crd in crds().values())


def leads_to_a_field(path: str, crd: dict[str, Any]) -> bool:
    """Tell whether a path is a field of a kind."""
    node = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for name in path.split("."):
        node = node.get("items", node).get("properties", {}).get(name)
        if node is None:
            return False
    return True
