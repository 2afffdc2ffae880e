"""Valid objects, facts and observations by default; a test names only what differs.

States that cannot exist are refused: an end without an attempt, a pod that ran without a node.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from finetune_api.dataset import Dataset
from finetune_api.finetune_experiment import FineTuneExperiment
from finetune_api.model_export import ModelExport
from finetune_api.names import (
    DATASET,
    EXPERIMENT,
    EXPORT,
    attempt_job,
    dataset_job,
    export_job,
    preparation_job,
)
from finetune_api.run_outcome import EXIT_CODES, FailureClass, Outcome
from finetune_api.run_progress import Progress
from finetune_api.storage import Location, VolumeClaim
from finetune_operator.observed import (
    ChildRef,
    JobFacts,
    Key,
    Manifest,
    Observed,
    OurObject,
    Plan,
    PodFacts,
    Policy,
)

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
NAMESPACE = "lab"
UIDS = {DATASET: "uid-dataset", EXPERIMENT: "uid-experiment", EXPORT: "uid-export"}
NAMES = {DATASET: "questions", EXPERIMENT: "assistant", EXPORT: "published"}
MODELS: dict[str, type[OurObject]] = {
    DATASET: Dataset,
    EXPERIMENT: FineTuneExperiment,
    EXPORT: ModelExport,
}
STORAGE = {"volumeClaim": {"claimName": "artifacts", "path": "ml"}}
SPECS: dict[str, Manifest] = {
    DATASET: {
        "sources": [{"volumeClaim": {"claimName": "raw", "path": "questions.jsonl"}}],
        "storage": STORAGE,
    },
    EXPERIMENT: {
        "model": {"volumeClaim": {"claimName": "models", "path": "tiny"}},
        "dataset": {"name": NAMES[DATASET]},
        "compute": {"nodes": 2, "gpusPerNode": 0},
        "storage": STORAGE,
    },
    EXPORT: {
        "source": {"experiment": {"name": NAMES[EXPERIMENT]}},
        "storage": STORAGE,
    },
}
POLICY = Policy(image="trainer:test")
DEFAULT_LOCATION = Location(volume_claim=VolumeClaim(claim_name="default-results"))


def digest(character: str) -> str:
    """Return a digest that is told from others by one character."""
    return f"sha256:{character * 64}"


def our_object(kind: str, *, status: Manifest | None = None, **changes: Any) -> Any:
    """Return an object of ours; `changes` are spec fields, by their JSON names."""
    manifest = {
        "metadata": {
            "name": NAMES[kind],
            "namespace": NAMESPACE,
            "uid": UIDS[kind],
            "generation": 1,
            "resourceVersion": "1",
        },
        "spec": SPECS[kind] | changes,
        "status": status or {},
    }
    return MODELS[kind].model_validate_json(json.dumps(manifest))


def with_metadata(found: OurObject, **changes: Any) -> Any:
    """Return the object with other metadata, fields by their Python names."""
    return found.model_copy(update={"metadata": found.metadata.model_copy(update=changes)})


def published(observed: Observed, plan: Plan) -> Observed:
    """Return what is observed once the plan's status was written."""
    text = json.dumps(
        json.loads(observed.object.model_dump_json(by_alias=True)) | {"status": plan.status}
    )
    return replace(observed, object=MODELS[observed.key.kind].model_validate_json(text))


def key(kind: str) -> Key:
    """Return the key of the object the builders make."""
    return Key(kind, NAMESPACE, NAMES[kind])


def observed(kind: str, found: OurObject | None = None, **changes: Any) -> Observed:
    """Return an observation; `changes` are its fields."""
    defaults: dict[str, Any] = {"now": NOW, "policy": POLICY}
    if kind == EXPERIMENT:
        defaults["references"] = {key(DATASET): ready_dataset()}
    if kind == EXPORT:
        defaults["references"] = {key(EXPERIMENT): complete_experiment()}
    return Observed(key=key(kind), object=found or our_object(kind), **(defaults | changes))


def pod(index: int = 0, phase: str = "Running", **changes: Any) -> PodFacts:
    """Return a pod on a node, ready if it runs."""
    facts: dict[str, Any] = {
        "name": f"pod-{index}",
        "uid": f"uid-pod-{index}",
        "phase": phase,
        "index": index,
        "bound": True,
        "ready": phase == "Running",
    }
    if changes.get("exit_code") is not None and phase in ("Pending", "Running"):
        raise ValueError("a pod with an exit code has ended")
    return PodFacts(**(facts | changes))


def ended_pod(
    index: int = 0, failure: FailureClass = FailureClass.UNKNOWN, **changes: Any
) -> PodFacts:
    """Return a pod that wrote its outcome and ended."""
    told = changes.pop("outcome", None) or outcome(failure, rank=index)
    phase = "Succeeded" if failure is FailureClass.COMPLETED else "Failed"
    code = EXIT_CODES.get(failure, 1)
    return pod(index, phase, **({"ready": False, "exit_code": code, "outcome": told} | changes))


def outcome(failure: FailureClass, **fields: Any) -> Outcome:
    """Return an outcome, fields by their Python names."""
    return Outcome(failure_class=failure, **fields)


def job(
    kind: str, attempt: int = 1, *pods: PodFacts, component: str = "attempt", **changes: Any
) -> JobFacts:
    """Return the Job of an attempt."""
    name = {
        (DATASET, "attempt"): dataset_job(NAMES[DATASET], attempt),
        (EXPERIMENT, "attempt"): attempt_job(NAMES[EXPERIMENT], attempt),
        (EXPERIMENT, "prepare"): preparation_job(NAMES[EXPERIMENT], 1, attempt),
        (EXPORT, "attempt"): export_job(NAMES[EXPORT], attempt),
    }[kind, component]
    ref = ChildRef("batch/v1", "Job", NAMESPACE, name, f"uid-{name}", "7")
    facts: dict[str, Any] = {"component": component, "created": NOW, "pods": pods}
    return JobFacts(ref=ref, attempt=attempt, **(facts | changes))


def progress(phase: str, **fields: Any) -> Progress:
    """Return an answer of rank 0 of the first attempt."""
    return Progress(run=f"{UIDS[EXPERIMENT]}/1", phase=phase, **fields)


def child(plan: Plan, kind: str) -> Manifest:
    """Return the child of a kind that a plan applies."""
    [found] = [one for one in plan.apply if one["kind"] == kind]
    return found


def condition(plan_or_status: Plan | Manifest, name: str) -> tuple[str, str]:
    """Return status and reason of a condition."""
    status = plan_or_status.status if isinstance(plan_or_status, Plan) else plan_or_status
    found = next(item for item in status["conditions"] if item["type"] == name)
    return found["status"], found["reason"]


def message(plan_or_status: Plan | Manifest, name: str = "Ready") -> str:
    """Return the message of a condition."""
    status = plan_or_status.status if isinstance(plan_or_status, Plan) else plan_or_status
    return next(item["message"] for item in status["conditions"] if item["type"] == name)


def conditions(**types: str) -> list[Manifest]:
    """Return stored conditions: `Ready="True"`, or `Ready="False Training"`."""
    parts = {name: [*text.split(), "AsExpected"][:2] for name, text in types.items()}
    return [
        {"type": name, "status": status, "reason": reason, "message": ""}
        for name, (status, reason) in parts.items()
    ]


def ready_dataset(**status: Any) -> Dataset:
    """Return a Dataset whose snapshot exists."""
    settled = {
        "conditions": conditions(Ready="True Ready", Complete="True Ready"),
        "recordType": "Conversation",
        "digest": digest("d"),
        "uri": "pvc://artifacts/ml/datasets/lab/questions-uid-dataset/snapshot-1",
    }
    return our_object(DATASET, status=settled | status)


PLAN = {
    "template": "Raw", "computeDtype": "Float32", "strategy": "DDP", "gpus": 0, "ranks": 2,
    "maxLength": 128, "perDeviceBatchSize": 2, "globalBatchSize": 4, "maxTokensPerDevice": 256,
    "stepsPerEpoch": 50, "totalSteps": 100, "warmupSteps": 3, "seed": 1, "epochs": 2.0,
    "learningRate": 1e-4,
}  # fmt: skip
MODEL = {"name": "pvc://models/tiny", "architecture": "LlamaForCausalLM", "parameters": 1000}


def prepared(**status: Any) -> Manifest:
    """Return the status of an experiment whose preparation is complete."""
    from finetune_operator.manifests.identity import spec_digest

    preparation = {
        "attempt": 1,
        "complete": True,
        "ended": "Completed",
        "uri": "pvc://artifacts/ml/prepared-1-1",
        "digest": digest("f"),
        "specDigest": spec_digest(our_object(EXPERIMENT).spec),
    }
    pin = {"name": NAMES[DATASET], "digest": digest("d"), "uri": "pvc://artifacts/x"}
    settled = {"preparation": preparation, "dataset": pin, "model": MODEL, "plan": PLAN}
    return {"revision": 1, "observedGeneration": 1} | settled | status


def attempt(number: int = 1, **fields: Any) -> Manifest:
    """Return the status fields of an attempt whose Job was seen."""
    if not number and fields:
        raise ValueError("nothing can be recorded of an attempt that was never made")
    recorded = {"number": number, "generation": 1} | fields
    return {"attempt": recorded, "children": {"job": attempt_job(NAMES[EXPERIMENT], number)}}


def ended_status(failure: str, number: int = 1, seconds_ago: float = 0, **status: Any) -> Manifest:
    """Return the status of an experiment between two attempts."""
    ended = (NOW - timedelta(seconds=seconds_ago)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return prepared(**attempt(number, ended=failure, endedTime=ended), **status)


RESULT = {
    "checkpoint": "Best", "step": 90, "uri": "pvc://artifacts/ml/step-90",
    "digest": digest("e"), "kind": "Adapter",
}  # fmt: skip


def complete_experiment(**status: Any) -> FineTuneExperiment:
    """Return an experiment with a result."""
    settled = prepared(**attempt(1, ended="Completed")) | {
        "conditions": conditions(Ready="True Completed", Complete="True Completed"),
        "result": RESULT,
        "metrics": [
            {"name": "perplexity_corpus", "split": "validation", "value": 9.0, "step": 0},
            {"name": "perplexity_corpus", "split": "validation", "value": 3.0, "step": 100},
        ],
    }
    return our_object(EXPERIMENT, status=settled | status)
