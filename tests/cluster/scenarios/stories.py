"""What the cluster stories are told with: tiny inputs in the bucket, manifests, waiting.

The base model is random and tiny and the data is arithmetic: the stories are about runs that
survive, not about what is learned; the quickstart story shows learning.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import kubectl as kube
from harness.locations import MOUNT
from harness.object_store import bucket_directory, object_store, s3_secret
from harness.volumes import claim

Manifest = dict[str, Any]
API_VERSION = "finetune.dev/v1alpha1"
SECRET, CLAIM = "s3", "artifacts"
SCRIPTS = Path(__file__).parent.parent
RESOURCES = {"requests": {"cpu": "100m", "memory": "512Mi"}}
ONE_CORE = RESOURCES | {"limits": {"cpu": "1"}}
"""For ranks: two pods that both start a thread per core would stand in each other's way."""
TWO_MODELS = {"requests": {"cpu": "100m", "memory": "2Gi"}}
"""An export holds the trained model and, in a process of its own, the one it wrote."""


@dataclass(frozen=True)
class Ground:
    """A namespace with an S3 Secret, an S3-backed claim and its files where the store has them."""

    namespace: str
    files: Path


@functools.cache
def tiny_inputs() -> None:
    """Put a tiny base model and 400 records into the bucket under `inputs/`, once."""
    folder = bucket_directory() / "inputs"
    if not (folder / "base-model" / "config.json").exists():
        subprocess.run([sys.executable, SCRIPTS / "tiny_model.py", folder], check=True)


def furnish(namespace: str) -> Path:
    """Give a namespace its S3 Secret and its S3-backed claim; return the claim's files."""
    tiny_inputs()
    s3_secret(namespace, SECRET)
    mounted = claim(namespace, CLAIM)
    # Not through the mount: looking often would keep it busy.
    return bucket_directory() / mounted.relative_to(MOUNT)


def bucket(prefix: str, *, faulty: bool = False) -> Manifest:
    """Return the S3 block for a prefix of the test bucket."""
    store = object_store()
    return {
        "bucket": store.bucket,
        "prefix": prefix,
        "endpoint": store.faulty_endpoint if faulty else store.endpoint,
        "region": store.region,
        "pathStyle": True,
        "secretRef": {"name": SECRET},
    }


def on_claim(path: str = "results") -> Manifest:
    """Return the storage block for the S3-backed claim."""
    return {"volumeClaim": {"claimName": CLAIM, "path": path}}


def dataset(name: str = "sums", **spec: Any) -> Manifest:
    """Return a valid Dataset over the tiny records in S3."""
    return {
        "apiVersion": API_VERSION,
        "kind": "Dataset",
        "metadata": {"name": name},
        "spec": {
            "sources": [{"s3": bucket("inputs/train.jsonl")}],
            "split": {"validation": 0.1},
            "storage": on_claim(),
            "compute": {"resources": RESOURCES},
            **spec,
        },
    }


def experiment(name: str, *, steps: int = 60, nodes: int = 2, **spec: Any) -> Manifest:
    """Return a valid experiment: full fine-tuning on two CPU pods, a checkpoint every 10 steps."""
    return {
        "apiVersion": API_VERSION,
        "kind": "FineTuneExperiment",
        "metadata": {"name": name},
        "spec": {
            "model": {"s3": bucket("inputs/base-model")},
            "dataset": {"name": "sums"},
            "adapter": {"type": "None"},
            "tokenizer": {"maxLength": 64},
            "training": {
                "maxSteps": steps,
                "globalBatchSize": 8,
                "perDeviceBatchSize": 4,
                "learningRate": 1e-3,
                "seed": 7,
            },
            "evaluation": {"everyEpochs": 0, "generateSamples": 1},
            "generation": {"maxNewTokens": 8},
            "checkpoint": {"everySteps": 10, "everySeconds": 0, "keepLast": 3, "result": "Last"},
            "storage": on_claim(),
            "compute": {"nodes": nodes, "gpusPerNode": 0, "resources": ONE_CORE},
            "tracking": {"logEverySteps": 1},
            **spec,
        },
    }


def export(name: str, source: str, **spec: Any) -> Manifest:
    """Return a valid ModelExport of an experiment to S3."""
    return {
        "apiVersion": API_VERSION,
        "kind": "ModelExport",
        "metadata": {"name": name},
        "spec": {
            "source": {"experiment": {"name": source}},
            "targets": [{"name": "bucket", "s3": bucket(f"exports/{name}")}],
            "storage": on_claim(),
            "compute": {"resources": TWO_MODELS},
            **spec,
        },
    }


def read(kind: str, name: str, namespace: str) -> Manifest:
    """Return the live object."""
    return kube.fetch(kind, name, namespace=namespace)


def condition(body: Manifest, kind: str) -> Manifest:
    """Return one condition of an object, or an empty one."""
    conditions = body.get("status", {}).get("conditions", [])
    return next((each for each in conditions if each["type"] == kind), {})


def wait_for(
    kind: str, name: str, namespace: str, probe: Callable[[Manifest], Any], *, timeout: int = 240
) -> Manifest:
    """Wait until `probe` holds for the object; on failure the error shows its status."""

    def holds() -> Manifest | None:
        body = read(kind, name, namespace)
        return body if probe(body) else None

    try:
        return kube.wait_until(f"{kind} {name}", holds, timeout=timeout)
    except Exception as error:
        status = json.dumps(read(kind, name, namespace).get("status"), indent=1)
        raise AssertionError(f"{kind} {name}: {error}\n{status}\n{pods_of(namespace)}") from error


def wait_for_condition(
    kind: str, name: str, namespace: str, wanted: str, *, timeout: int = 240
) -> Manifest:
    """Wait until a condition is True; end early when the object has failed instead."""

    def probe(body: Manifest) -> bool:
        failed = condition(body, "Failed")
        if wanted != "Failed" and failed.get("status") == "True":
            raise AssertionError(f"{failed['reason']}: {failed['message']}")
        return condition(body, wanted).get("status") == "True"

    return wait_for(kind, name, namespace, probe, timeout=timeout)


def pods_of(namespace: str) -> str:
    """Return what `kubectl get pods` shows, for error messages."""
    return kube.kubectl("get", "pods", "-o", "wide", namespace=namespace)


def rank_pods(namespace: str, name: str) -> list[Manifest]:
    """Return the pods of an experiment's attempts, preparation left out."""
    selector = f"finetune.dev/experiment={name},app.kubernetes.io/component=attempt"
    items: list[Manifest] = kube.fetch("pods", namespace=namespace, selector=selector)["items"]
    return items


def running_since_checkpoint(namespace: str, name: str, files: Path, step: int = 10) -> None:
    """Wait until a verified checkpoint of at least `step` lies in storage and pods still run."""

    def probe() -> bool:
        return newest_checkpoint(files, name) >= step

    kube.wait_until(f"checkpoint {step} of {name}", probe, timeout=240, interval=0.2)


def checkpoints(files: Path, name: str) -> list[Path]:
    """Return the manifests of an experiment's checkpoints, in order of attempt and step."""
    # Unlike a path's own glob this one passes over folders that retention removes meanwhile.
    below = f"finetuneexperiments/*/{name}-*/checkpoints/*/step-*/manifest.json"
    names = [*glob.glob(str(files / below)), *glob.glob(str(files / "*" / below))]
    return sorted(map(Path, names), key=lambda path: (path.parts[-3], int(path.parts[-2][5:])))


def newest_checkpoint(files: Path, name: str) -> int:
    """Return the highest step that has a manifest, or -1."""
    return max((int(path.parts[-2][5:]) for path in checkpoints(files, name)), default=-1)


def weights_digest(files: Path, body: Manifest) -> str:
    """Return one digest over the trained tensors of an experiment's result."""
    scheme, _, _, path = body["status"]["result"]["uri"].split("/", 3)
    folder = (bucket_directory() if scheme == "s3:" else files) / path
    digest = hashlib.sha256()
    tensors = sorted(folder.glob("trainable-*.safetensors"))
    assert tensors, f"{folder} holds no weights"
    for file in tensors:
        digest.update(file.read_bytes())
    return digest.hexdigest()
