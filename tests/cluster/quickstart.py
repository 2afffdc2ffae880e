"""Put the quickstart's inputs into the bucket, apply its overlay, wait with plain kubectl."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from harness import kubectl as kube
from harness.locations import CACHE
from harness.object_store import bucket_directory

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "quickstart"
OVERLAY = ROOT / "examples" / "cluster"
QUICKSTART = {
    "dataset": "stdlib-questions",
    "finetuneexperiment": "quickstart",
    "modelexport": "quickstart",
}


def prepare_inputs(namespace: str) -> None:
    """Make data and base model (cached) and copy them into the bucket under `quickstart/`."""
    made = CACHE / "quickstart"
    made.mkdir(parents=True, exist_ok=True)
    data, model = made / "train.jsonl", made / "base-model"
    run = [sys.executable]
    subprocess.run([*run, EXAMPLES / "make_dataset.py", data], check=True)
    subprocess.run([*run, EXAMPLES / "make_base_model.py", model], check=True)
    target = bucket_directory() / "quickstart"
    shutil.copytree(made, target, dirs_exist_ok=True)


def apply_quickstart(namespace: str) -> None:
    """Apply the overlay as `kubectl apply -k` does."""
    kube.kubectl("apply", "-k", str(OVERLAY), namespace=namespace)


def wait_with_kubectl(namespace: str, timeout: int = 900) -> None:
    """Wait as a user would; on failure show what the objects say."""
    for kind, name in QUICKSTART.items():
        try:
            kube.kubectl(
                "wait",
                "--for=condition=Complete",
                f"{kind}/{name}",
                f"--timeout={timeout}s",
                namespace=namespace,
                timeout=timeout + 30,
            )
        except kube.KubectlError as error:
            shown = kube.kubectl("get", kind, name, "-o", "yaml", namespace=namespace)
            pods = kube.kubectl("get", "pods", "-o", "wide", namespace=namespace)
            raise AssertionError(f"{error}\n{shown}\n{pods}") from error
