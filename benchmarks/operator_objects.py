"""Experiments and Datasets in as many namespaces as one likes, and how they come to exist."""

from __future__ import annotations

from typing import Any

from operator_api import Api, Manifest

from finetune_api.names import API_VERSION, DATASET, EXPERIMENT, PLURALS

PER_NAMESPACE = 10
"""Experiments in a namespace; every fifth of them has a Dataset of its own."""
PER_DATASET = 5
STORAGE = {"volumeClaim": {"claimName": "results"}}
PATTERN = ("pattern-space", "pattern-run", "pattern-data")
"""Namespace, experiment and Dataset; names that occur nowhere else can be replaced in a text."""


def namespace(number: int) -> str:
    """Return the namespace of an experiment."""
    return f"team-{number // PER_NAMESPACE:08}"


def dataset_name(number: int) -> str:
    """Return the name of an experiment's Dataset."""
    return f"data-{number // PER_DATASET}"


def experiment_name(number: int, name: str = "run") -> str:
    """Return the name of an experiment."""
    return f"{name}-{number}"


def experiment(number: int, name: str = "run") -> Manifest:
    """Return an experiment as somebody would write it."""
    return _experiment(namespace(number), experiment_name(number, name), dataset_name(number))


def pattern() -> tuple[Manifest, Manifest]:
    """Return the Dataset and the experiment whose statuses all finished ones get."""
    return _dataset(*PATTERN[::2]), _experiment(*PATTERN)


def path(manifest: Manifest, *, named: bool = True) -> str:
    """Return the path of one of these objects, or of its collection."""
    plural, metadata = PLURALS[manifest["kind"]], manifest["metadata"]
    collection = f"/apis/{API_VERSION}/namespaces/{metadata['namespace']}/{plural}"
    return f"{collection}/{metadata['name']}" if named else collection


async def create(api: Api, manifest: Manifest) -> Manifest:
    """Create one of these objects."""
    return await api.create(path(manifest, named=False), manifest)


def condition(manifest: Manifest, name: str) -> dict[str, Any]:
    """Return a condition of an object, empty before it has one."""
    conditions = (manifest.get("status") or {}).get("conditions") or ()
    return next((one for one in conditions if one["type"] == name), {})


def _dataset(where: str, name: str) -> Manifest:
    spec = {
        "sources": [{"volumeClaim": {"claimName": "raw", "path": "questions.jsonl"}}],
        "split": {"validation": 0.05},
        "storage": STORAGE,
    }
    return _object(DATASET, where, name, spec)


def _experiment(where: str, name: str, data: str) -> Manifest:
    spec = {
        "model": {"volumeClaim": {"claimName": "models", "path": "tiny"}},
        "dataset": {"name": data},
        "adapter": {"type": "LoRA", "rank": 16},
        "training": {"epochs": 2, "learningRate": 1e-4},
        "compute": {"gpusPerNode": 0},
        "storage": STORAGE,
    }
    return _object(EXPERIMENT, where, name, spec)


def _object(kind: str, where: str, name: str, spec: Manifest) -> Manifest:
    metadata = {"name": name, "namespace": where}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}
