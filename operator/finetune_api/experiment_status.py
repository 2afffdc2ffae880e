"""What the operator and the trainer observed of an experiment."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from finetune_api.experiment_plan import PlanStatus
from finetune_api.experiment_start import Start
from finetune_api.meta import ApiModel
from finetune_api.status_parts import ObjectStatus


class DatasetPin(ApiModel):
    """The snapshot a run uses."""

    name: str = Field(max_length=253)
    """name of the Dataset."""
    digest: str = Field(max_length=71)
    """digest of its snapshot."""
    uri: str = Field(default="", max_length=256)
    """uri of its snapshot."""
    train: int = 0
    """train samples used."""
    validation: int = 0
    """validation samples used."""
    test: int = 0
    """test samples used."""


class ModelStatus(ApiModel):
    """The resolved starting weights."""

    name: str = Field(max_length=253)
    """name or place of the model."""
    commit: str | None = Field(default=None, max_length=64)
    """commit of a Hub model."""
    architecture: str | None = Field(default=None, max_length=63)
    """architecture from its configuration."""
    parameters: int | None = None
    """parameters in all."""
    trainable_parameters: int | None = None
    """trainableParameters of the run."""


class PreparationStatus(ApiModel):
    """The preparation of this revision."""

    attempt: int = 0
    """attempt of the preparation Job, from 1."""
    uri: str = Field(default="", max_length=256)
    """uri of what it wrote."""
    digest: str = Field(default="", max_length=71)
    """digest of its manifest."""
    complete: bool = False
    """complete once its result is recorded."""
    revision: int = 1
    """revision it was made for; one that goes on from a checkpoint keeps it."""
    spec_digest: str = Field(default="", max_length=71)
    """specDigest of what it prepared."""
    ended: str | None = Field(default=None, max_length=63)
    """ended is the failure class of a preparation that ended badly."""
    ended_time: datetime | None = None
    """endedTime is when the end was recorded."""


class Truncation(ApiModel):
    """What the length limit did."""

    samples: int = 0
    """samples shortened."""
    answers: int = 0
    """answers cut."""
    dropped: int = 0
    """dropped samples."""
    lost_tokens: int = 0
    """lostTokens in all."""
    lost_share: float = 0.0
    """lostShare of all tokens."""
    fits_ninety_nine: int = 0
    """fitsNinetyNine is the length that fits 99 % of the samples."""
    fits_all: int = 0
    """fitsAll is the length that fits all samples."""


class ExperimentProgress(ApiModel):
    """How far training is."""

    percentage: int = Field(default=0, ge=0, le=100)
    """percentage of the steps done."""
    step: int = 0
    """step done."""
    total_steps: int = 0
    """totalSteps of the run."""
    first_step: int | None = None
    """firstStep that this attempt went on from."""
    step_seconds: float | None = None
    """stepSeconds this attempt spent in steps."""
    estimated_remaining_seconds: int | None = None
    """estimatedRemainingSeconds of the run."""
    epoch: float | None = None
    """epoch as a fraction."""
    loss: float | None = None
    """loss in nats per supervised token, last logged."""
    learning_rate: float | None = None
    """learningRate now."""
    grad_norm: float | None = None
    """gradNorm before clipping, last logged."""
    tokens_per_second: float | None = None
    """tokensPerSecond over all ranks."""
    peak_memory_bytes: int | None = None
    """peakMemoryBytes were in use at most on the longest samples, of a GPU or a CPU process."""
    planned_memory_bytes: int | None = None
    """plannedMemoryBytes are what the plan expects a rank to allocate at the peak."""
    eta: str | None = Field(default=None, max_length=63)
    """eta is the remaining time as text."""
    stage: str = Field(default="", max_length=63)
    """stage is what the run does now."""
    update_time: datetime | None = None
    """updateTime is when this was read."""


class MetricStatus(ApiModel):
    """One number of one evaluation."""

    name: str = Field(max_length=63)
    """name as reported: loss, perplexity_corpus."""
    split: str = Field(max_length=63)
    """split evaluated."""
    value: float
    """value of the metric."""
    step: int
    """step it was measured at."""
    rows: int = 0
    """rows counted."""
    seen_in_training: bool = False
    """seenInTraining: these records were trained on too (dataset.includeValidation)."""


class BestStatus(ApiModel):
    """The best evaluation so far."""

    metric: str = Field(max_length=63)
    """metric that decides."""
    value: float
    """value reached."""
    step: int
    """step it was reached at."""


class CheckpointStatus(ApiModel):
    """One verified checkpoint."""

    step: int
    """step it holds."""
    uri: str = Field(max_length=256)
    """uri in storage."""
    digest: str = Field(max_length=71)
    """digest of its manifest."""
    attempt: int = 0
    """attempt that wrote it."""


class Checkpoints(ApiModel):
    """The checkpoints of the run."""

    latest: CheckpointStatus | None = None
    """latest verified checkpoint."""
    best: CheckpointStatus | None = None
    """best verified checkpoint."""
    quarantined: int = 0
    """quarantined: damaged ones that were set aside."""
    save_seconds: float | None = None
    """saveSeconds is the slowest save."""


class Result(ApiModel):
    """What training left behind."""

    checkpoint: Literal["Best", "Last"]
    """checkpoint chosen."""
    step: int
    """step it holds."""
    uri: str = Field(max_length=256)
    """uri in storage."""
    digest: str = Field(max_length=71)
    """digest of its manifest."""
    kind: Literal["Adapter", "Model"]
    """kind of the weights."""
    reason: str = Field(default="", max_length=128)
    """reason of the choice."""


class Efficiency(ApiModel):
    """How much of the time on nodes became part of the result."""

    training_ratio: float | None = Field(default=None, ge=0, le=1)
    """trainingRatio is seconds in steps of the trajectory / seconds since pods were on nodes."""
    trained_seconds: float = Field(default=0.0, ge=0)
    """trainedSeconds of earlier attempts, spent in steps that this attempt goes on from."""
    lost_steps: int = Field(default=0, ge=0)
    """lostSteps were taken and had to be taken again, after restarts and rollbacks."""
    lost_seconds: float = Field(default=0.0, ge=0)
    """lostSeconds were spent in them the first time."""
    recovery_seconds: float | None = Field(default=None, ge=0)
    """recoverySeconds is the median time from a fault to the first step beyond it."""


class CostStatus(ApiModel):
    """What the GPUs of this revision cost."""

    gpu_seconds: int = 0
    """gpuSeconds that its attempts held GPUs, the live one included."""
    ended_gpu_seconds: int = 0
    """endedGpuSeconds are those of attempts that have ended."""
    amount: float | None = None
    """amount of money, if a price is known."""
    currency: str | None = Field(default=None, max_length=3)
    """currency of the amount."""
    useful_gpu_seconds: int = 0
    """usefulGpuSeconds were spent in steps that count."""
    lost_gpu_seconds: int = 0
    """lostGpuSeconds were spent in steps that had to be taken again."""
    startup_gpu_seconds: int = 0
    """startupGpuSeconds passed before the first step of an attempt: images, model, data, ranks."""
    evaluation_gpu_seconds: int = 0
    """evaluationGpuSeconds were spent in evaluations."""
    forecast_gpu_seconds: int | None = None
    """forecastGpuSeconds of the whole run: gpuSeconds, and the rest at the present speed."""
    forecast: float | None = None
    """forecast is the amount for them, if a price is known."""


class PodCounts(ApiModel):
    """Pods of the live attempt."""

    ready: int = 0
    """ready pods."""
    total: int = 0
    """total pods."""


class ExperimentStatus(ObjectStatus):
    """What became of the run."""

    preparation: PreparationStatus = PreparationStatus()
    """preparation of this revision."""
    dataset: DatasetPin | None = None
    """dataset is the pinned snapshot."""
    validation_dataset: DatasetPin | None = None
    """validationDataset is the pinned snapshot of dataset.validationName."""
    test_dataset: DatasetPin | None = None
    """testDataset is the pinned snapshot of dataset.testName."""
    start: Start | None = None
    """start is the pinned origin of model.fromExperiment."""
    model: ModelStatus | None = None
    """model is the resolved starting weights."""
    plan: PlanStatus | None = None
    """plan holds resolved choices."""
    truncation: Truncation | None = None
    """truncation is what the length limit did."""
    progress: ExperimentProgress | None = None
    """progress of training."""
    metrics: list[MetricStatus] = Field(
        default_factory=list,
        max_length=32,
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name", "split", "step"],
        },
    )
    """metrics of the baseline and of the latest evaluation."""
    best: BestStatus | None = None
    """best evaluation so far."""
    checkpoints: Checkpoints = Checkpoints()
    """checkpoints of the run."""
    result: Result | None = None
    """result of training."""
    efficiency: Efficiency | None = None
    """efficiency of the run, from its first steps on."""
    cost: CostStatus | None = None
    """cost of its GPUs; absent on CPU."""
    pods: PodCounts | None = None
    """pods of the live attempt."""
