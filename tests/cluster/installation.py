"""Install the operator into the test cluster with the chart, as a user would."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import kubectl as kube
from harness.containers import signal_pod
from harness.locations import BIN, KUBECONFIG, LOGS

NAMESPACE, RELEASE = "finetune-system", "finetune-operator"
CHART = Path(__file__).parents[2] / "helm" / "finetune-operator"
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:{RELEASE}"
"""What the API server calls the installed operator."""
SELECTOR = "app.kubernetes.io/name=finetune-operator"
KEPT = LOGS / "operators.log"
"""What operators said whose logs the kubelet has removed, or soon will."""


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


@contextmanager
def others_may_own_children() -> Iterator[None]:
    """Lift the chart's policy that lets the installed operator's account alone make children."""
    kind = "validatingadmissionpolicybinding"
    lifted = [
        one for one in kube.fetch(kind)["items"] if one["metadata"]["name"].endswith("-owners")
    ]
    for one in lifted:
        kube.kubectl("delete", kind, one["metadata"]["name"])
    try:
        yield
    finally:
        for one in lifted:
            metadata = {
                key: one["metadata"].get(key, {}) for key in ("name", "labels", "annotations")
            }
            parts = {key: one[key] for key in ("apiVersion", "kind", "spec")}
            kube.apply(parts | {"metadata": metadata})


def operator_pod() -> str:
    """Return the name of the running operator pod."""
    pods = kube.fetch("pods", namespace=NAMESPACE, selector=SELECTOR)["items"]
    names = [
        pod["metadata"]["name"]
        for pod in pods
        if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
    ]
    if len(names) != 1:
        raise AssertionError(f"one operator pod should run, there are {names}")
    return str(names[0])


def operator_is_back() -> str:
    """Wait until the operator is ready again and return the name of its pod."""
    kube.kubectl(
        "rollout", "status", f"deployment/{RELEASE}", "--timeout=120s",
        namespace=NAMESPACE, timeout=150,
    )  # fmt: skip
    return operator_pod()


def operator_works() -> bool:
    """Tell whether the present process leads and has opened its start barrier."""
    try:
        log = kube.kubectl("logs", f"deployment/{RELEASE}", "--tail=-1", namespace=NAMESPACE)
    except kube.KubectlError:
        return False
    return '"event": "working"' in log


def kill_operator() -> None:
    """End the operator as the kernel would; its log up to now is kept."""
    keep_operator_log()
    signal_pod(NAMESPACE, operator_pod())


def keep_operator_log() -> None:
    """Copy the log of the running operator: with its pod or its container it would go."""
    with KEPT.open("a", encoding="utf-8") as kept:
        kept.write(_present_log())


def operator_log() -> str:
    """Return what the operators of this cluster have said, as far as it was kept."""
    return (KEPT.read_text(encoding="utf-8") if KEPT.exists() else "") + _present_log()


def _present_log() -> str:
    text = ""
    for extra in (["--previous"], []):
        try:
            text += kube.kubectl(
                "logs", f"deployment/{RELEASE}", "--tail=-1", *extra, namespace=NAMESPACE
            )
        except kube.KubectlError:
            continue
    return text
