"""Prometheus of the cluster: finds metric ports of pods by itself, answers queries of tests."""

import json
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from harness.binaries import program
from harness.certificates import kubeconfig
from harness.locations import PROMETHEUS, STATE
from harness.processes import start, wait_for_answer

PROCESSES = ("prometheus",)
SCRAPE_SECONDS = 2


def start_metrics_store() -> None:
    """Start Prometheus; it watches pods as a user's would."""
    configuration = STATE / "prometheus.json"
    configuration.write_text(json.dumps(_configuration(), indent=1), encoding="utf-8")
    command: list[str | Path] = [
        program("prometheus"),
        f"--config.file={configuration}",
        f"--storage.tsdb.path={STATE / 'prometheus'}",
        f"--web.listen-address={PROMETHEUS.removeprefix('http://')}",
        "--log.level=warn",
    ]
    start("prometheus", command)


def wait_for_metrics_store() -> None:
    """Wait until Prometheus answers queries."""
    wait_for_answer("prometheus", f"{PROMETHEUS}/-/ready")


def prometheus_query(expression: str) -> list[dict[str, Any]]:
    """Return the instant vector of a PromQL expression: `{"metric": labels, "value": [t, text]}`.

    A scalar comes as one sample without labels.
    """
    answer = _api(f"query?{urllib.parse.urlencode({'query': expression})}")
    if answer["resultType"] == "scalar":
        return [{"metric": {}, "value": answer["result"]}]
    return list(answer["result"])


def prometheus_targets() -> list[dict[str, Any]]:
    """Return what is being scraped, with `labels`, `health` and `lastError` of each."""
    return list(_api("targets?state=active")["activeTargets"])


def _api(path: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{PROMETHEUS}/api/v1/{path}", timeout=10) as response:
        return dict(json.load(response)["data"])


def _configuration() -> dict[str, Any]:
    """Scrape every running pod with a port named `metrics` or `http-metrics`.

    Pod labels `finetune.dev/x` become label `x`. What a pod says about itself wins, as with
    `honorLabels` of a PodMonitor: the operator reports for experiments in other namespaces.
    """
    pod = "__meta_kubernetes_pod"
    port = [f"{pod}_container_port_name"]
    relabelling = [
        {"source_labels": port, "regex": "metrics|http-metrics", "action": "keep"},
        {"source_labels": [f"{pod}_phase"], "regex": "Running", "action": "keep"},
        {"regex": f"{pod}_label_finetune_dev_(.+)", "action": "labelmap"},
        {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
        {"source_labels": [f"{pod}_name"], "target_label": "pod"},
        {"source_labels": [f"{pod}_container_name"], "target_label": "container"},
    ]
    discovery = {"role": "pod", "kubeconfig_file": str(kubeconfig("observer"))}
    pods = {
        "job_name": "pods",
        "honor_labels": True,
        "kubernetes_sd_configs": [discovery],
        "relabel_configs": relabelling,
    }
    every = {"scrape_interval": f"{SCRAPE_SECONDS}s", "scrape_timeout": f"{SCRAPE_SECONDS}s"}
    return {"global": every, "scrape_configs": [pods]}
