"""Install the operator into the test cluster with the chart, as a user would."""

from __future__ import annotations

import subprocess
from pathlib import Path

from harness import kubectl as kube
from harness.locations import BIN, KUBECONFIG

NAMESPACE, RELEASE = "finetune-system", "finetune-operator"
CHART = Path(__file__).parents[2] / "helm" / "finetune-operator"


def install_operator(*settings: str) -> None:
    """Install or upgrade the release and wait until the operator is ready."""
    command = [
        BIN / "helm",
        "upgrade",
        "--install",
        RELEASE,
        CHART,
        "--kubeconfig",
        KUBECONFIG,
        "--namespace",
        NAMESPACE,
        "--create-namespace",
        "--take-ownership",  # the admission stories may have applied the CRDs before
        "--force-conflicts",
        "--set",
        "scope=Cluster",
        "--set",
        "image.repository=localhost/finetune-operator",
        "--set",
        "image.tag=dev",
        "--set",
        "trainer.image.repository=localhost/finetune-trainer",
        "--set",
        "trainer.image.tag=dev",
        *[part for setting in settings for part in ("--set", setting)],
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    kube.kubectl("label", "namespace", NAMESPACE, "--overwrite",
                 "pod-security.kubernetes.io/enforce=restricted")  # fmt: skip
    kube.kubectl("rollout", "restart", f"deployment/{RELEASE}", namespace=NAMESPACE)
    kube.kubectl(
        "rollout", "status", f"deployment/{RELEASE}", "--timeout=120s",
        namespace=NAMESPACE, timeout=150,
    )  # fmt: skip


def operator_pod() -> str:
    """Return the name of the running operator pod."""
    selector = "app.kubernetes.io/name=finetune-operator"
    pods = kube.fetch("pods", namespace=NAMESPACE, selector=selector)["items"]
    names = [
        pod["metadata"]["name"]
        for pod in pods
        if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
    ]
    if len(names) != 1:
        raise AssertionError(f"one operator pod should run, there are {names}")
    return str(names[0])


def operator_log() -> str:
    """Return the log of the operator, of containers before a restart too."""
    text = ""
    for extra in ([], ["--previous"]):
        try:
            text += kube.kubectl(
                "logs", f"deployment/{RELEASE}", "--tail=-1", *extra, namespace=NAMESPACE
            )
        except kube.KubectlError:
            continue
    return text
