"""Children of every object that admission accepts: all cases of the corpus, and random objects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import builders
from corpus.admission_cases import ADMISSION_CASES
from corpus.local_answer import local_object
from corpus.random_objects import random_manifest
from corpus.reference_cases import REFERENCES, manifest
from finetune_api.names import DATASET, EXPERIMENT, EXPORT, JOB_SET, PLURALS, POD_GROUP
from finetune_api.network_profile import NetworkProfile
from finetune_operator.cluster.local_admission import AdmissionError, admit
from finetune_operator.manifests.identity import spec_digest
from finetune_operator.observed import Key, Manifest, Observed, OurObject
from finetune_operator.planners import plan

RANDOM_OBJECTS = 200
"""Of each kind; about one in ten is accepted."""


def accepted_objects() -> Iterator[tuple[str, Manifest]]:
    """Yield kind and manifest, as it is stored."""
    for case in ADMISSION_CASES:
        if case.status is None and not case.refused:
            yield case.kind, local_object(case)
    for kind, cases in REFERENCES.items():
        for spec in cases.values():
            yield kind, admit(manifest(kind, spec))
    for kind in PLURALS:
        for seed in range(RANDOM_OBJECTS):
            try:
                yield kind, admit(random_manifest(kind, seed))
            except AdmissionError:
                continue


def children(kind: str, stored: Manifest) -> Iterator[Manifest]:
    """Yield what an object makes over its life: of an experiment preparation and attempt."""
    first = _model(kind, stored, {})
    statuses: list[Manifest] = [{"attempt": {"number": 1}}]
    if kind == EXPERIMENT:
        prepared = builders.prepared(attempt={"number": 1})
        prepared["preparation"]["specDigest"] = spec_digest(first.spec)
        statuses = [_recorded_preparation(first), prepared]
    for status in statuses:
        yield from plan(_observed(kind, _model(kind, stored, status))).apply


def all_pod_templates() -> list[Manifest]:
    """Return every different pod template of every accepted object."""
    found = {
        json.dumps(template["spec"], sort_keys=True): template
        for kind, stored in accepted_objects()
        for child in children(kind, stored)
        for template in pod_templates(child)
    }
    return list(found.values())


def pod_templates(child: Any) -> Iterator[Manifest]:
    """Yield the pod templates in a child of any kind, however deep."""
    if isinstance(child, list):
        child = dict(enumerate(child))
    if isinstance(child, dict):
        if "containers" in child.get("spec", {}):
            yield child
        else:
            for below in child.values():
                yield from pod_templates(below)


def _model(kind: str, stored: Manifest, status: Manifest) -> Any:
    facts = {"namespace": builders.NAMESPACE, "uid": builders.UIDS[kind], "generation": 1}
    spec = json.loads(json.dumps(stored["spec"]))
    spec["runPolicy"] = spec.get("runPolicy", {}) | {"suspend": False}
    whole = {**stored, "metadata": {**stored["metadata"], **facts}, "spec": spec, "status": status}
    return builders.MODELS[kind].model_validate_json(json.dumps(whole))


def _recorded_preparation(first: OurObject) -> Manifest:
    seen = _observed(EXPERIMENT, first)
    status: Manifest = builders.published(seen, plan(seen)).object.model_dump(
        mode="json", by_alias=True, exclude_none=True
    )["status"]
    return status


def _observed(kind: str, found: Any) -> Observed:
    references: dict[Key, OurObject] = {}
    if kind == EXPERIMENT:
        data = found.spec.dataset
        for name in filter(None, (data.name, data.validation_name, data.test_name)):
            references[_key(DATASET, name)] = builders.with_metadata(
                builders.ready_dataset(), name=name
            )
        if parent := found.spec.model.from_experiment:
            references[_key(EXPERIMENT, parent.name)] = builders.complete_experiment()
    if kind == EXPORT:
        name = found.spec.source.experiment.name
        references[_key(EXPERIMENT, name)] = builders.complete_experiment()
    return builders.observed(kind, found, references=references, policy=_policy(found))


def _policy(found: Any) -> Any:
    profile = getattr(found.spec.compute, "network_profile", None)
    return replace(
        builders.POLICY,
        default_location=builders.DEFAULT_LOCATION,
        optional_kinds=frozenset({JOB_SET, POD_GROUP}),
        network_profiles={profile: NetworkProfile()} if profile else {},
    )


def _key(kind: str, name: str) -> Key:
    return Key(kind, builders.NAMESPACE, name)
