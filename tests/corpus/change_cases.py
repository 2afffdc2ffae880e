"""Changes of stored objects: what is fixed since the first attempt, what never goes back."""

from __future__ import annotations

from typing import Any

from corpus.admission_case import Case
from finetune_api.names import DATASET, EXPERIMENT, EXPORT

_RAN: dict[str, Any] = {"attempt": {"number": 1}, "fence": 3}
_SUSPENDED = {"runPolicy": {"suspend": True}}
_NUMBER = "status.attempt.number"
_TIME = "2030-01-01T00:00:00Z"


def _change(
    kind: str,
    says: str,
    refused: str = "",
    *,
    spec: dict[str, Any],
    stored: dict[str, Any] | None = None,
    stored_status: dict[str, Any] | None = None,
) -> Case:
    fields = tuple(refused.split())
    status = _RAN if stored_status is None else stored_status
    return Case(says, kind, spec, fields, stored=stored or {}, stored_status=status)


def _observation(
    says: str, refused: str, before: dict[str, Any], after: dict[str, Any], kind: str = EXPERIMENT
) -> Case:
    fields = tuple(refused.split())
    return Case(says, kind, {}, fields, stored={}, stored_status=before, status=after)


def _condition(kind: str, status: str) -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": "Pending", "lastTransitionTime": _TIME}


_PLAN = {
    "template": "Raw", "computeDtype": "Float32", "strategy": "DDP", "gpus": 0, "ranks": 1,
    "maxLength": 64, "perDeviceBatchSize": 1, "globalBatchSize": 1, "maxTokensPerDevice": 64,
    "stepsPerEpoch": 1, "totalSteps": 1, "warmupSteps": 0, "seed": 1, "epochs": 1.0,
    "learningRate": 1e-4,
}  # fmt: skip
_COMPLETE = {"revision": 1, "conditions": [_condition("Complete", "True")]}

CHANGE_CASES = [
    _change(EXPERIMENT, "nothing changed", spec={}),
    _change(EXPERIMENT, "a default written out is no change", spec={"adapter": {"type": "LoRA"}}),
    _change(EXPERIMENT, "an integer for an equal number is no change",
            spec={"evaluation": {"everyEpochs": 1}}, stored={"evaluation": {"everyEpochs": 1.0}}),
    _change(EXPERIMENT, "anything before the first attempt", stored_status={},
            spec={"model": {"name": "other"}, "compute": {"nodes": 2}}),
    _change(EXPERIMENT, "another model", "spec", spec={"model": {"name": "other"}}),
    _change(EXPERIMENT, "another rate", "spec", spec={"training": {"learningRate": 1e-3}}),
    _change(EXPERIMENT, "a rate that vanishes", "spec", spec={},
            stored={"training": {"learningRate": 1e-3}}),
    _change(EXPERIMENT, "other evaluations", "spec", spec={"evaluation": {"everySteps": 5}}),
    _change(EXPERIMENT, "another bucket", "spec", spec={"storage": {"s3": {"bucket": "abc"}}}),
    _change(EXPERIMENT, "another model and a new rerun",
            spec={"model": {"name": "other"}, "rerun": "2"}),
    _change(EXPERIMENT, "another model and an old rerun", "spec",
            spec={"model": {"name": "other"}, "rerun": "2"}, stored={"rerun": "2"}),
    _change(EXPERIMENT, "another model for a run that goes on", "spec",
            spec={"model": {"name": "other"}, "rerun": "2", "rerunFrom": "LastCheckpoint"}),
    _change(EXPERIMENT, "a run that goes on", spec={"rerun": "2", "rerunFrom": "LastCheckpoint"}),
    _change(EXPERIMENT, "more nodes and a new rerun",
            spec={"compute": {"nodes": 2}, "rerun": "2"}),
    _change(DATASET, "other sources and a new rerun",
            spec={"sources": [{"volumeClaim": {"claimName": "other"}}], "rerun": "2"}),
    _change(EXPERIMENT, "suspension does not free the result", "spec",
            spec={"prompt": {"system": "be brief"}, **_SUSPENDED}),
    _change(EXPERIMENT, "more nodes while it runs", "spec", spec={"compute": {"nodes": 2}}),
    _change(EXPERIMENT, "more nodes with suspension", spec={"compute": {"nodes": 2}, **_SUSPENDED}),
    _change(EXPERIMENT, "more nodes with the end of suspension",
            spec={"compute": {"nodes": 2}}, stored=_SUSPENDED),
    _change(EXPERIMENT, "other checkpoints while it runs", "spec",
            spec={"checkpoint": {"keepLast": 3}}),
    _change(EXPERIMENT, "more retries while it runs",
            spec={"runPolicy": {"retries": {"unknown": 9}}}),
    _change(EXPERIMENT, "variables in another order are no change",
            spec={"compute": {"env": [{"name": "B"}, {"name": "A"}]}},
            stored={"compute": {"env": [{"name": "A"}, {"name": "B"}]}}),
    _change(EXPERIMENT, "modules in another order are a change", "spec",
            spec={"adapter": {"targetModules": ["b", "a"]}},
            stored={"adapter": {"targetModules": ["a", "b"]}}),
    _change(DATASET, "other sources", "spec",
            spec={"sources": [{"volumeClaim": {"claimName": "other"}}]}),
    _change(DATASET, "column mapping that appears", "spec", spec={"columns": {"answer": "a"}}),
    _change(DATASET, "another split", "spec", spec={"split": {"seed": 1}}),
    _change(DATASET, "another license", "spec", spec={"license": "mit"}),
    _change(DATASET, "another hub", "spec", spec={"hub": {"offline": True}}),
    _change(DATASET, "another image while it runs", "spec", spec={"compute": {"image": "x"}}),
    _change(DATASET, "another image with suspension",
            spec={"compute": {"image": "x"}, **_SUSPENDED}),
    _change(EXPORT, "another format", "spec", spec={"format": "Adapter"}),
    _change(EXPORT, "targets that appear", "spec",
            spec={"targets": [{"name": "a", "s3": {"bucket": "abc"}}]}),
    _change(EXPORT, "targets in another order are no change",
            spec={"targets": [{"name": n, "s3": {"bucket": "abc"}} for n in "ba"]},
            stored={"targets": [{"name": n, "s3": {"bucket": "abc"}} for n in "ab"]}),
    _change(EXPORT, "another claim", "spec", spec={"storage": {"volumeClaim": {"claimName": "c"}}}),
    _change(EXPORT, "another scheduler while it runs", "spec",
            spec={"scheduling": {"schedulerName": "x"}}),
    _observation("the next attempt", "", _RAN, {"attempt": {"number": 2}, "fence": 3}),
    _observation("the first status", "", {}, _RAN),
    *(
        case
        for kind in (DATASET, EXPERIMENT, EXPORT)
        for case in (
            _observation(f"an attempt number of a {kind} that goes down", _NUMBER, _RAN,
                         {"attempt": {"number": 0}, "fence": 3}, kind),
            _observation(f"an attempt number of a {kind} that vanishes", _NUMBER, _RAN,
                         {"fence": 3}, kind),
            _observation(f"an operator that was replaced writes on a {kind}", "status.fence", _RAN,
                         {"attempt": {"number": 1}, "fence": 2}, kind),
            _observation(f"a {kind} that is no longer complete", "status.conditions", _COMPLETE,
                         {"revision": 1, "conditions": [_condition("Complete", "False")]}, kind),
        )
    ),
    _observation("a status without a fence", "", _RAN, {"attempt": {"number": 1}}),
    _observation("conditions that vanish from a complete run", "status.conditions", _COMPLETE,
                 {"revision": 1}),
    _observation("a new revision is complete anew", "", _COMPLETE,
                 {"revision": 2, "conditions": [_condition("Complete", "False")]}),
    _observation("an unknown field of a status", "status.phase", {}, {"phase": "Running"}),
    _observation("a condition twice", "status.conditions[1]", {},
                 {"conditions": [_condition("Ready", "True"), _condition("Ready", "False")]}),
    _observation("a word for a condition's status", "status.conditions[0].status", {},
                 {"conditions": [_condition("Ready", "Maybe")]}),
    _observation("a time that is none", "status.startTime", {}, {"startTime": "yesterday"}),
    _observation("a part of the memory plan with a name beyond its bound",
                 "status.plan.memory.terms", {},
                 {"plan": _PLAN | {"memory": {"estimatedBytes": 1, "verdict": "Fits",
                                              "terms": {"x" * 64: 1}}}}),
    _observation("a message beyond its bound", "status.conditions[0].message", {},
                 {"conditions": [{**_condition("Ready", "True"), "message": "x" * 1025}]}),
]  # fmt: skip
