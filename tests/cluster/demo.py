"""`make cluster-demo`: the quickstart in the test cluster, watched with plain kubectl."""

from __future__ import annotations

import os
import subprocess

from harness import kubectl as kube
from harness.locations import BIN, KUBECONFIG
from harness.namespaces import create_namespace, delete_namespace
from installation import NAMESPACE, install_operator
from quickstart import OVERLAY, QUICKSTART, apply_quickstart, prepare_inputs, wait_with_kubectl
from scenarios.stories import furnish, read

DEMO = "demo"


def say(text: str) -> None:
    """Print one step of the demo."""
    print(f"\n\033[1m▸ {text}\033[0m", flush=True)


def main() -> None:
    """Install, apply, watch, wait, and show what is there."""
    say("install the operator with its Helm chart")
    install_operator()
    print(kube.kubectl("get", "pods", namespace=NAMESPACE))
    say(f"namespace {DEMO}: Pod Security restricted, S3 keys, an S3-backed volume, inputs")
    delete_namespace(DEMO)
    create_namespace(DEMO)
    furnish(DEMO)
    prepare_inputs(DEMO)
    say(f"kubectl apply -k {os.path.relpath(OVERLAY)}")
    apply_quickstart(DEMO)
    say("kubectl get finetuneexperiments -w")
    watch = subprocess.Popen(
        [BIN / "kubectl", "--kubeconfig", KUBECONFIG, "-n", DEMO, "get", "ft", "-w"]
    )
    try:
        wait_with_kubectl(DEMO)
    finally:
        watch.terminate()
        watch.wait()
    say("kubectl get finetune")
    print(kube.kubectl("get", "finetune", namespace=DEMO))
    print(kube.kubectl("get", "pods", namespace=DEMO))
    report()


def report() -> None:
    """Print perplexity before and after, and where the results lie."""
    status = read("finetuneexperiment", QUICKSTART["finetuneexperiment"], DEMO)["status"]
    exported = read("modelexport", QUICKSTART["modelexport"], DEMO)["status"]
    found = {m["step"]: m["value"] for m in status["metrics"] if m["name"] == "perplexity_corpus"}
    say(f"validation perplexity {found[0]:.2f} -> {found[max(found)]:.2f}")
    print("checkpoint", status["result"]["uri"], status["result"]["digest"][:19])
    print("export    ", exported["targets"][0]["uri"], exported["artifact"]["digest"][:19])
    print(f"\nLook around: export KUBECONFIG={KUBECONFIG}; kubectl -n {DEMO} describe ft")


if __name__ == "__main__":
    main()
