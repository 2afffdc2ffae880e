"""The children of the quickstart's objects, compared with golden files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import builders
from builders import DATASET, EXPERIMENT, EXPORT, prepared
from finetune_cli.read_manifests import read_manifests
from finetune_operator.cluster.local_admission import admit
from finetune_operator.manifests.identity import spec_digest
from finetune_operator.observed import Key, Manifest, Observed
from finetune_operator.planners import plan

RECORDED: dict[str, Manifest] = {
    "dataset": {"attempt": {"number": 1}},
    "preparation": {},
    "attempt": prepared(attempt={"number": 1}),
    "export": {"attempt": {"number": 1}},
}
QUICKSTART = Path(__file__).parents[3] / "examples" / "quickstart"
FILES = {DATASET: "dataset", EXPERIMENT: "experiment", EXPORT: "export"}


def quickstart(kind: str, status: Manifest | None = None) -> Any:
    """Return an example object as the API server stores it."""
    documents = read_manifests([QUICKSTART / f"{FILES[kind]}.yaml"])
    stored = admit(documents[0].manifest) | {"status": status or {}}
    stored["metadata"] |= {"namespace": "lab", "uid": builders.UIDS[kind], "generation": 1}
    return builders.MODELS[kind].model_validate_json(json.dumps(stored))


def seen(kind: str, found: Any, *references: Any) -> Observed:
    """Return what is observed of an example object that refers to others."""
    known = {Key(k, "lab", r.metadata.name): r for k, r in zip(FILES, references, strict=False)}
    key = Key(kind, "lab", found.metadata.name)
    return Observed(key, found, now=builders.NOW, policy=builders.POLICY, references=known, fence=3)


def examples() -> dict[str, Observed]:
    """Return the example objects, each at the point where its children are made."""
    first = {"attempt": {"number": 1}}
    dataset = quickstart(DATASET).model_copy(update={"status": builders.ready_dataset().status})
    new = seen(EXPERIMENT, quickstart(EXPERIMENT), dataset)
    digest = {"specDigest": spec_digest(new.object.spec)}
    preparation = {"preparation": RECORDED["attempt"]["preparation"] | digest}
    complete = quickstart(EXPERIMENT).model_copy(
        update={"status": builders.complete_experiment().status}
    )
    return {
        "dataset": seen(DATASET, quickstart(DATASET, first)),
        "preparation": builders.published(new, plan(new)),
        "attempt": seen(EXPERIMENT, quickstart(EXPERIMENT, RECORDED["attempt"] | preparation)),
        "export": seen(EXPORT, quickstart(EXPORT, first), dataset, complete),
    }


@pytest.mark.parametrize("name", RECORDED)
def test_children_of_the_quickstart_are_rendered_as_recorded(
    name: str, golden: Callable[[str, str], None]
) -> None:
    text = yaml.safe_dump_all(plan(examples()[name]).apply, sort_keys=False, width=100)
    golden(f"children/{name}.yaml", text)
