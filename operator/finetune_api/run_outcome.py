"""The last word of a pod: failure classes, exit codes and the termination message.

The only copy: the trainer writes it, the operator reads it as untrusted input.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from finetune_api.dataset_status import ColumnStatus, Finding, Lengths, RecordCounts, SourceStatus
from finetune_api.experiment_plan import PlanStatus
from finetune_api.experiment_status import DatasetPin, MetricStatus, ModelStatus, Truncation
from finetune_api.meta import ConfigModel
from finetune_api.model_export import (
    ExportArtifact,
    ExportSourceStatus,
    TargetStatus,
    VerificationStatus,
)
from finetune_api.reported_values import MetricName, Word
from finetune_api.status_parts import WarningStatus

MAX_BYTES = 4096
"""The kubelet keeps at most this much of a termination message."""


class FailureClass(StrEnum):
    """How a pod, or an attempt, ended."""

    COMPLETED = "Completed"
    CHECKPOINTED = "Checkpointed"
    CONFIGURATION = "Configuration"
    DATA = "Data"
    ACCESS = "Access"
    GPU_OUT_OF_MEMORY = "GpuOutOfMemory"
    RESOURCES_EXHAUSTED = "ResourcesExhausted"
    NOT_FINITE = "NotFinite"
    EXTERNAL_SERVICE = "ExternalService"
    PEER_LOST = "PeerLost"
    DISRUPTION = "Disruption"
    HANG = "Hang"
    START_TIMEOUT = "StartTimeout"
    DEADLINE = "Deadline"
    BUDGET = "Budget"
    UNKNOWN = "Unknown"


EXIT_CODES: dict[FailureClass, int] = {
    FailureClass.COMPLETED: 0,
    FailureClass.UNKNOWN: 1,
    FailureClass.CONFIGURATION: 10,
    FailureClass.DATA: 11,
    FailureClass.ACCESS: 12,
    FailureClass.GPU_OUT_OF_MEMORY: 20,
    FailureClass.RESOURCES_EXHAUSTED: 21,
    FailureClass.NOT_FINITE: 22,
    FailureClass.EXTERNAL_SERVICE: 30,
    FailureClass.PEER_LOST: 40,
    FailureClass.CHECKPOINTED: 75,
}
CLASS_OF_EXIT_CODE = {code: failure for failure, code in EXIT_CODES.items()}


class CheckpointRef(ConfigModel):
    """A verified checkpoint."""

    step: int = Field(ge=0)
    uri: str = Field(max_length=256)
    digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")


class Best(ConfigModel):
    """The best evaluation so far."""

    metric: MetricName
    value: float
    step: int = Field(ge=0)


class Artifact(ConfigModel):
    """A file or folder that lies in storage."""

    kind: Literal["snapshot", "prepared", "checkpoint", "export", "report"]
    uri: str = Field(max_length=256)
    digest: str = Field(default="", pattern=r"^(sha256:[0-9a-f]{64})?$")
    bytes: int = Field(default=0, ge=0)


class DatasetSummary(ConfigModel):
    """What a Dataset's Job found."""

    record_type: str = Field(max_length=63)
    layout: str = Field(max_length=63)
    records: RecordCounts
    lengths: Lengths
    sources: list[SourceStatus] = Field(default_factory=list, max_length=16)
    columns: list[ColumnStatus] = Field(default_factory=list, max_length=16)
    findings: list[Finding] = Field(default_factory=list, max_length=20)


class PreparationSummary(ConfigModel):
    """What an experiment's preparation resolved."""

    dataset: DatasetPin
    model: ModelStatus
    plan: PlanStatus
    truncation: Truncation


class TrainingSummary(ConfigModel):
    """What an attempt reached; mode Evaluate leaves no checkpoint."""

    checkpoint_choice: Literal["Best", "Last"] | None = None
    kind: Literal["Adapter", "Model"] | None = None
    reason: str = Field(default="", max_length=128)
    metrics: list[MetricStatus] = Field(default_factory=list, max_length=16)
    """metrics of the result, and of the baseline with step 0."""


class ExportSummary(ConfigModel):
    """What an export wrote and verified."""

    source: ExportSourceStatus
    artifact: ExportArtifact
    verification: VerificationStatus
    targets: list[TargetStatus] = Field(default_factory=list, max_length=8)


class Outcome(ConfigModel):
    """The termination message of a pod.

    `result` is the checkpoint that a completed training names as its result; `checkpoint` is the
    newest verified one. Exactly one summary, that of the verb, is set on success; a Dataset that
    failed on its data carries the dataset summary with its findings as well.
    """

    version: Literal[1] = 1
    failure_class: FailureClass = Field(alias="class")
    reason: Word = ""
    """reason is a name of `conditions.FAILURE_REASONS` or of a data finding; empty = by class."""
    rank: int = Field(default=0, ge=0)
    step: int = Field(default=0, ge=0)
    first_step: int | None = Field(default=None, ge=0)
    step_seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """firstStep and stepSeconds as in `run_progress`, from rank 0 alone."""
    message: str = Field(default="", max_length=1024)
    remedy: str = Field(default="", max_length=256)
    checkpoint: CheckpointRef | None = None
    best: Best | None = None
    best_checkpoint: CheckpointRef | None = None
    result: CheckpointRef | None = None
    artifacts: list[Artifact] = Field(default_factory=list, max_length=4)
    quarantined: int = Field(default=0, ge=0)
    """quarantined counts damaged checkpoints that this pod set aside."""
    warnings: list[WarningStatus] = Field(default_factory=list, max_length=4)
    dataset: DatasetSummary | None = None
    preparation: PreparationSummary | None = None
    training: TrainingSummary | None = None
    export: ExportSummary | None = None

    def encoded(self) -> bytes:
        """Return at most `MAX_BYTES` of JSON: long texts are shortened first, then lists."""
        outcome = self
        for shorten in (_without_long_findings, _without_columns, _with_short_message):
            data = outcome._json()
            if len(data) <= MAX_BYTES:
                return data
            outcome = shorten(outcome)
        return outcome._json()[:MAX_BYTES]

    def _json(self) -> bytes:
        return self.model_dump_json(
            by_alias=True, exclude_none=True, exclude_defaults=False
        ).encode()


def _without_long_findings(outcome: Outcome) -> Outcome:
    if outcome.dataset is None:
        return outcome
    findings = [
        finding.model_copy(update={"message": finding.message[:80]})
        for finding in outcome.dataset.findings[:10]
    ]
    dataset = outcome.dataset.model_copy(update={"findings": findings})
    return outcome.model_copy(update={"dataset": dataset})


def _without_columns(outcome: Outcome) -> Outcome:
    if outcome.dataset is None:
        return outcome
    dataset = outcome.dataset.model_copy(
        update={"columns": [], "sources": outcome.dataset.sources[:4]}
    )
    return outcome.model_copy(update={"dataset": dataset, "warnings": []})


def _with_short_message(outcome: Outcome) -> Outcome:
    return outcome.model_copy(update={"message": outcome.message[:256], "warnings": []})
