"""One result, published as adapter and as model; other content at a target is left alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness import kubectl as kube
from harness.object_store import bucket_directory
from scenarios.stories import (
    Ground,
    bucket,
    condition,
    experiment,
    export,
    wait_for_condition,
)

TRAINED = "tuned"


@pytest.fixture(scope="module")
def tuned(sums: Ground) -> Ground:
    """A namespace with a completed LoRA experiment."""
    lora = experiment(TRAINED, steps=6, nodes=1, adapter={"type": "LoRA", "rank": 4})
    kube.apply(lora, namespace=sums.namespace)
    wait_for_condition("finetuneexperiment", TRAINED, sums.namespace, "Complete")
    return sums


def target_in_bucket(ground: Ground, name: str) -> dict:
    return {"name": "bucket", "s3": bucket(f"exports/{ground.namespace}/{name}")}


def folder_in_bucket(ground: Ground, name: str) -> Path:
    return bucket_directory() / "exports" / ground.namespace / name


def published(ground: Ground, name: str, **spec: object) -> dict:
    """Apply an export and return its status once it is complete."""
    kube.apply(export(name, TRAINED, **spec), namespace=ground.namespace)
    return wait_for_condition("modelexport", name, ground.namespace, "Complete")["status"]


def test_an_adapter_export_holds_the_adapter_alone_and_was_verified(tuned: Ground) -> None:
    status = published(
        tuned, "adapter", format="Adapter", targets=[target_in_bucket(tuned, "adapter")]
    )
    names = {path.name for path in folder_in_bucket(tuned, "adapter").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md"} <= names
    assert "model.safetensors" not in names
    assert status["verification"]["maxLogitDifference"] <= 1e-4


def test_volume_and_bucket_hold_the_same_files(tuned: Ground) -> None:
    on_volume = {"name": "volume", "volumeClaim": {"claimName": "artifacts", "path": "models/both"}}
    status = published(tuned, "both", targets=[target_in_bucket(tuned, "both"), on_volume])
    assert status["pushed"] == "2/2"
    stored = {path.name: path.read_bytes() for path in folder_in_bucket(tuned, "both").iterdir()}
    mounted = next(tuned.files.glob("**/models/both"))
    assert {path.name: path.read_bytes() for path in mounted.iterdir()} == stored
    manifest = json.loads(stored["manifest.json"])
    assert {file["name"] for file in manifest["files"]} | {"manifest.json"} == set(stored)


def test_other_content_at_a_target_stays_and_the_export_fails(tuned: Ground) -> None:
    folder = folder_in_bucket(tuned, "taken")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("somebody's")
    kube.apply(
        export("taken", TRAINED, targets=[target_in_bucket(tuned, "taken")]),
        namespace=tuned.namespace,
    )
    body = wait_for_condition("modelexport", "taken", tuned.namespace, "Failed")
    assert condition(body, "Ready")["reason"] == "TargetConflict"
    assert "replace" in condition(body, "Ready")["message"]
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    assert (folder / "config.json").read_text() == "somebody's"
