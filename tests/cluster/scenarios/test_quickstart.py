"""The three quickstart manifests, unchanged but for a kustomize overlay, in a real cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness import kubectl as kube
from harness.metrics_store import prometheus_query
from harness.object_store import bucket_directory
from quickstart import QUICKSTART, apply_quickstart, prepare_inputs, wait_with_kubectl
from scenarios.stories import Ground, condition, pods_of, read

DASHBOARD = Path(__file__).parents[3] / "dashboards" / "experiment.json"
WITHOUT_VALUE_HERE = (
    *("finetune_train_mfu_ratio", "finetune_experiment_recovery_seconds"),
    *("finetune_experiment_gpu_seconds", "finetune_experiment_forecast_gpu_seconds"),
)
"""A CPU has no peak in a datasheet and no GPU time; what nothing disturbs recovers from nothing."""


@pytest.fixture(scope="module")
def quickstart(ground: Ground) -> Ground:
    """The quickstart, applied in any order and complete."""
    prepare_inputs(ground.namespace)
    apply_quickstart(ground.namespace)
    wait_with_kubectl(ground.namespace)
    return ground


def test_all_three_objects_complete_and_one_command_lists_them(quickstart: Ground) -> None:
    listing = kube.kubectl("get", "finetune", namespace=quickstart.namespace)
    assert listing.count("Ready") + listing.count("Completed") >= 3, listing
    for kind, name in QUICKSTART.items():
        body = read(kind, name, quickstart.namespace)
        assert condition(body, "Complete")["status"] == "True"
        assert condition(body, "Stalled")["status"] == "False"
        assert body["status"]["observedGeneration"] == body["metadata"]["generation"]
        assert "finalizers" not in body["metadata"]
        assert not [key for key in body["metadata"].get("annotations", {}) if "kopf" in key]


def test_fine_tuning_lowers_validation_perplexity_by_more_than_thirty_percent(
    quickstart: Ground,
) -> None:
    status = read("finetuneexperiment", QUICKSTART["finetuneexperiment"], quickstart.namespace)[
        "status"
    ]
    perplexity = {
        metric["step"]: metric["value"]
        for metric in status["metrics"]
        if metric["name"] == "perplexity_corpus"
    }
    assert perplexity[max(perplexity)] < 0.7 * perplexity[0]


def test_the_run_had_two_ranks_on_two_pods(quickstart: Ground) -> None:
    status = read("finetuneexperiment", QUICKSTART["finetuneexperiment"], quickstart.namespace)[
        "status"
    ]
    assert status["plan"]["ranks"] == 2
    assert status["attempt"]["worldSize"] == 2


def test_checkpoints_on_the_volume_are_objects_of_the_bucket(quickstart: Ground) -> None:
    seen = list(bucket_directory().glob("**/checkpoints/*/step-*/manifest.json"))
    assert any(quickstart.namespace in str(path) for path in seen)


def test_the_export_lies_in_the_bucket_with_its_digests(quickstart: Ground) -> None:
    status = read("modelexport", QUICKSTART["modelexport"], quickstart.namespace)["status"]
    target = status["targets"][0]
    assert target["state"] == "Pushed"
    folder = bucket_directory() / target["uri"].split("/", 3)[3]
    files = json.loads((folder / "manifest.json").read_text())["files"]
    assert {file["name"] for file in files} >= {"config.json", "tokenizer.json", "README.md"}
    assert all((folder / file["name"]).stat().st_size == file["bytes"] for file in files)


def test_every_pod_held_the_restricted_profile_and_no_api_token(quickstart: Ground) -> None:
    pods = kube.fetch("pods", namespace=quickstart.namespace)["items"]
    assert pods, pods_of(quickstart.namespace)
    for pod in pods:
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        mounts = [mount["mountPath"] for mount in pod["spec"]["containers"][0]["volumeMounts"]]
        assert not [path for path in mounts if "serviceaccount" in path]


def test_every_panel_of_the_dashboard_shows_data_of_the_run(quickstart: Ground) -> None:
    name = QUICKSTART["finetuneexperiment"]
    panels = [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if "targets" in panel]
    assert len(panels) >= 6
    silent = []
    for panel in panels:
        for target in panel["targets"]:
            expression = target["expr"]
            if any(name in expression for name in WITHOUT_VALUE_HERE):
                continue
            for variable, value in {
                "$namespace": quickstart.namespace,
                "$experiment": name,
                "$__rate_interval": "30s",
                "$__interval": "10s",
                "$__range": "30m",
            }.items():
                expression = expression.replace(variable, value)
            if not prometheus_query(f"last_over_time(({expression})[30m:2s])"):
                silent.append((panel["title"], expression))
    assert silent == []
