"""The CustomResourceDefinitions: what is served of each kind, and rules over whole objects."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from finetune_api.dataset import Dataset, DatasetSpec
from finetune_api.dataset_status import DatasetStatus
from finetune_api.experiment_status import ExperimentStatus
from finetune_api.finetune_experiment import ExperimentSpec, FineTuneExperiment
from finetune_api.meta import ApiModel
from finetune_api.model_export import ExportSpec, ExportStatus, ModelExport
from finetune_api.names import (
    CATEGORY,
    DATASET,
    EXPERIMENT,
    EXPORT,
    GROUP,
    PLURALS,
    SHORT_NAMES,
    VERSION,
)
from finetune_api.structural_schema import RULES, Schema, structural_schema, without_defaults

Column = dict[str, Any]


@dataclass(frozen=True)
class ServedKind:
    """What a kind's CRD says beside its fields.

    `result` holds groups of blocks that are fixed since the first attempt, `place` the blocks
    that may change while the run is suspended, `control` those that may always change.
    """

    model: type[ApiModel]
    spec: type[ApiModel]
    status: type[ApiModel]
    columns: tuple[Column, ...]
    selectable: tuple[str, ...]
    result: tuple[tuple[str, ...], ...]
    place: tuple[str, ...]
    control: tuple[str, ...] = ("runPolicy", "rerun")


def _column(name: str, path: str, kind: str = "string", *, wide: bool = False) -> Column:
    column = {"name": name, "type": kind, "jsonPath": path}
    return {**column, "priority": 1} if wide else column


def _of_ready(field: str) -> str:
    return f'.status.conditions[?(@.type=="Ready")].{field}'


_STATUS = _column("STATUS", _of_ready("reason"))
_AGE = _column("AGE", ".metadata.creationTimestamp", "date")
_MESSAGE = _column("MESSAGE", _of_ready("message"), wide=True)

SERVED_KINDS: dict[str, ServedKind] = {
    DATASET: ServedKind(
        model=Dataset,
        spec=DatasetSpec,
        status=DatasetStatus,
        columns=(
            _STATUS,
            _column("RECORDS", ".status.records.total", "integer"),
            _column("TRAIN", ".status.records.train", "integer"),
            _column("VALIDATION", ".status.records.validation", "integer"),
            _AGE,
            _column("TYPE", ".status.recordType", wide=True),
            _column("DIGEST", ".status.digest", wide=True),
            _MESSAGE,
        ),
        selectable=(".spec.recordType",),
        result=(
            ("recordType", "layout", "sources", "columns", "roles"),
            ("split", "checks", "limits", "statistics", "license"),
            ("hub", "storage"),
        ),
        place=("compute", "scheduling", "networkPolicy", "podOverrides"),
    ),
    EXPERIMENT: ServedKind(
        model=FineTuneExperiment,
        spec=ExperimentSpec,
        status=ExperimentStatus,
        columns=(
            _STATUS,
            _column("STEP", ".status.progress.step", "integer"),
            _column("PROGRESS", ".status.progress.percentage", "integer"),
            _column("LOSS", ".status.progress.loss", "number"),
            _column("ETA", ".status.progress.eta"),
            _column("ATTEMPT", ".status.attempt.number", "integer"),
            _AGE,
            _column("MODEL", ".status.model.name", wide=True),
            _column("DATASET", ".spec.dataset.name", wide=True),
            _column("METHOD", ".spec.adapter.type", wide=True),
            _column("GPUS", ".status.plan.gpus", "integer", wide=True),
            _column("CHECKPOINT", ".status.checkpoints.latest.step", "integer", wide=True),
            _column("BEST", ".status.best.value", "number", wide=True),
            _MESSAGE,
        ),
        selectable=(".spec.problemType", ".spec.dataset.name", ".spec.model.name"),
        result=(
            ("problemType", "mode", "preset", "model", "dataset", "tokenizer", "prompt"),
            ("adapter", "training", "augmentation"),
            ("evaluation", "generation"),
            ("hub", "storage"),
        ),
        place=(
            *("compute", "deepspeed", "fsdp", "scheduling", "networkPolicy", "podOverrides"),
            *("checkpoint", "tracking"),
        ),
        control=("runPolicy", "rerun", "rerunFrom"),
    ),
    EXPORT: ServedKind(
        model=ModelExport,
        spec=ExportSpec,
        status=ExportStatus,
        columns=(
            _STATUS,
            _column("FORMAT", ".spec.format"),
            _column("SIZE", ".status.artifact.size"),
            _column("TARGETS", ".status.pushed"),
            _AGE,
            _column("SOURCE", ".status.source.name", wide=True),
            _column("DIGEST", ".status.artifact.digest", wide=True),
            _MESSAGE,
        ),
        selectable=(".spec.format",),
        result=(
            ("source", "format", "merge", "maxShardSize", "card"),
            ("targets", "verification"),
            ("hub", "storage"),
        ),
        place=("compute", "scheduling", "networkPolicy", "podOverrides"),
    ),
}

_RERUN = (
    "(has(self.spec.rerun) && (!has(oldSelf.spec.rerun) || self.spec.rerun != oldSelf.spec.rerun))"
)
_NO_ATTEMPT_BEFORE = (
    "!has(oldSelf.status) || !has(oldSelf.status.attempt) || !has(oldSelf.status.attempt.number) "
    "|| oldSelf.status.attempt.number == 0"
)
_COMPLETE = "c.type == 'Complete' && c.status == 'True'"
_OBJECT_RULES = (
    {
        "rule": "size(self.metadata.name) <= 40 "
        "&& self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "message": "names begin with a letter, hold a-z, 0-9 and inner '-', and have at most 40 "
        "characters",
        "fieldPath": ".metadata.name",
    },
    {
        "rule": f"{_NO_ATTEMPT_BEFORE} || (has(self.status) && has(self.status.attempt) "
        "&& has(self.status.attempt.number) "
        "&& self.status.attempt.number >= oldSelf.status.attempt.number)",
        "message": "the number of the attempt never goes down",
        "fieldPath": ".status.attempt.number",
    },
    {
        "rule": "!has(oldSelf.status) || !has(oldSelf.status.fence) || !has(self.status) "
        "|| !has(self.status.fence) || self.status.fence >= oldSelf.status.fence",
        "message": "an operator that was replaced must not write",
        "fieldPath": ".status.fence",
    },
    {
        "rule": "!has(oldSelf.status) || !has(oldSelf.status.conditions) "
        f"|| !oldSelf.status.conditions.exists(c, {_COMPLETE}) "
        "|| (has(self.status) && ((has(self.status.revision) && (!has(oldSelf.status.revision) "
        "|| self.status.revision != oldSelf.status.revision)) || (has(self.status.conditions) "
        f"&& self.status.conditions.exists(c, {_COMPLETE}))))",
        "message": "condition Complete stays True within a revision",
        "fieldPath": ".status.conditions",
    },
)


@cache
def crds() -> dict[str, Schema]:
    """Return the CustomResourceDefinition of each kind; callers must not change it."""
    return {kind: _crd(kind, served) for kind, served in SERVED_KINDS.items()}


def schema_of(kind: str) -> Schema:
    """Return the schema of whole objects of a kind."""
    schema: Schema = crds()[kind]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def _crd(kind: str, served: ServedKind) -> Schema:
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": list(served.columns),
        "selectableFields": [{"jsonPath": path} for path in served.selectable],
        "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": _object_schema(served)},
    }
    plural = PLURALS[kind]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [SHORT_NAMES[kind]],
                "categories": [CATEGORY],
            },
            "versions": [version],
        },
    }


def _object_schema(served: ServedKind) -> Schema:
    spec = structural_schema(served.spec)
    status = without_defaults(structural_schema(served.status))
    return {
        "type": "object",
        "description": served.model.__doc__,
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
            "spec": spec,
            "status": status,
        },
        RULES: [*_OBJECT_RULES, *_change_rules(served, spec)],
    }


def _change_rules(served: ServedKind, spec: Schema) -> list[dict[str, str]]:
    """State what may change when.

    On the whole object, because a transition rule on an optional field does not fire when the
    field appears or vanishes; in groups, because the cost of each expression is limited.
    """
    anew, said = _RERUN, "set spec.rerun to a new value in the same update"
    if "rerunFrom" in spec["properties"]:
        anew = f"({_RERUN} && self.spec.rerunFrom == 'Start')"
        said += ", with rerunFrom Start"
    result = [
        {
            "rule": f"{_NO_ATTEMPT_BEFORE} || {anew} || ({_unchanged(group, spec)})",
            "message": f"{', '.join(group)}: fixed since the first attempt; {said}",
            "fieldPath": ".spec",
        }
        for group in served.result
    ]
    place = {
        "rule": f"{_NO_ATTEMPT_BEFORE} || {_RERUN} || self.spec.runPolicy.suspend "
        f"|| oldSelf.spec.runPolicy.suspend || ({_unchanged(served.place, spec)})",
        "message": f"{', '.join(served.place)}: may change only while runPolicy.suspend is true; "
        "suspend first",
        "fieldPath": ".spec",
    }
    return [*result, place]


def _unchanged(blocks: tuple[str, ...], spec: Schema) -> str:
    return " && ".join(_same(block, spec) for block in blocks)


def _same(block: str, spec: Schema) -> str:
    equal = f"self.spec.{block} == oldSelf.spec.{block}"
    if block in spec.get("required", ()) or "default" in spec["properties"][block]:
        return equal
    return (
        f"has(self.spec.{block}) == has(oldSelf.spec.{block}) "
        f"&& (!has(self.spec.{block}) || {equal})"
    )
