"""For each field that names something in the namespace: a spec that names it there and is valid.

Paths are as in the schema, `[]` standing for an item; every case names THING.
"""

from __future__ import annotations

from typing import Any

from corpus.admission_case import ABSENT, laid_over
from finetune_api.names import API_VERSION, DATASET, EXPERIMENT, EXPORT

THING = "of-another-team"
_SECRET = {"secretRef": {"name": THING}}
_CLAIM = {"volumeClaim": {"claimName": THING}}
_BUCKET = {"bucket": "lake", **_SECRET}
_ANYWHERE: dict[str, dict[str, Any]] = {
    "spec.hub.secretRef.name": {"hub": _SECRET},
    "spec.storage.s3.secretRef.name": {"storage": {"s3": _BUCKET}},
    "spec.storage.volumeClaim.claimName": {"storage": _CLAIM},
    "spec.compute.imagePullSecrets[]": {"compute": {"imagePullSecrets": [THING]}},
    "spec.compute.serviceAccountName": {"compute": {"serviceAccountName": THING}},
}
REFERENCES: dict[str, dict[str, dict[str, Any]]] = {
    DATASET: _ANYWHERE
    | {
        "spec.sources[].s3.secretRef.name": {"sources": [{"s3": _BUCKET}]},
        "spec.sources[].http.secretRef.name": {
            "sources": [{"http": {"urls": ["https://data.example/rows.csv"], **_SECRET}}]
        },
        "spec.sources[].volumeClaim.claimName": {"sources": [_CLAIM]},
    },
    EXPERIMENT: _ANYWHERE
    | {
        "spec.model.s3.secretRef.name": {"model": {"name": ABSENT, "s3": _BUCKET}},
        "spec.model.volumeClaim.claimName": {"model": {"name": ABSENT, **_CLAIM}},
        "spec.model.fromExperiment.name": {
            "model": {"name": ABSENT, "fromExperiment": {"name": THING}}
        },
        "spec.dataset.name": {"dataset": {"name": THING}},
        "spec.dataset.validationName": {"dataset": {"validationName": THING}},
        "spec.dataset.testName": {"dataset": {"testName": THING}},
        "spec.prompt.templateRef.name": {
            "prompt": {"template": "Custom", "templateRef": {"name": THING, "key": "chat"}}
        },
    },
    EXPORT: _ANYWHERE
    | {
        "spec.source.experiment.name": {"source": {"experiment": {"name": THING}}},
        "spec.targets[].s3.secretRef.name": {"targets": [{"name": "lake", "s3": _BUCKET}]},
        "spec.targets[].volumeClaim.claimName": {"targets": [{"name": "disk", **_CLAIM}]},
    },
}
PLAIN: dict[str, dict[str, Any]] = {
    DATASET: {"sources": [{"inline": {"data": '{"text": "a"}'}, "format": "JSONL"}]},
    EXPERIMENT: {"model": {"name": "owner/model"}, "dataset": {"name": "open"}},
    EXPORT: {"source": {"experiment": {"name": "open"}}},
}
"""Specs that name nothing but `open`."""


def manifest(kind: str, spec: dict[str, Any], name: str = "one") -> dict[str, Any]:
    """Return an object with a plain spec and `spec` laid over it."""
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": name},
        "spec": laid_over(PLAIN[kind], spec),
    }
