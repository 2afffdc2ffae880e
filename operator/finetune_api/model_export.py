"""The ModelExport: a trained result merged, verified and published."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from finetune_api.compute_settings import Compute, Scheduling
from finetune_api.meta import ApiModel, DnsName, Name, ObjectMeta, Quantity, Rule, Text
from finetune_api.model_settings import CheckpointChoice, Dtype
from finetune_api.network_policy import NetworkPolicy
from finetune_api.pod_overrides import PodOverrides
from finetune_api.run_policy import RunPolicy
from finetune_api.status_parts import ObjectStatus
from finetune_api.storage import S3, Hub, Storage, VolumeClaim


class SourceExperiment(ApiModel):
    """Result of an experiment; waited for."""

    name: DnsName
    """name is an experiment of this namespace."""
    checkpoint: Literal[CheckpointChoice.RESULT, CheckpointChoice.BEST, CheckpointChoice.LAST] = (
        CheckpointChoice.RESULT
    )
    """checkpoint chosen, resolved to a digest once."""


class ExportSource(ApiModel):
    """What is exported."""

    experiment: SourceExperiment
    """experiment whose result is exported."""


class ExportFormat(StrEnum):
    """What is written."""

    MERGED = "Merged"
    ADAPTER = "Adapter"


class Merge(ApiModel):
    """How an adapter enters its base."""

    dtype: Dtype = Dtype.AUTO
    """dtype of the result; Auto = compute type of the training; sums are 32 bit."""


class Card(ApiModel):
    """Model card."""

    title: str | None = Field(default=None, max_length=256)
    """title of the card; absent = name of the export."""
    license: str | None = Field(default=None, max_length=256)
    """license id."""
    languages: list[Name] | None = Field(default=None, max_length=32)
    """languages for the header."""
    tags: list[Name] | None = Field(default=None, max_length=32)
    """tags for the header."""
    text: Text | None = None
    """text: intended use and limits."""
    samples: bool = True
    """samples includes prediction samples."""


class Target(ApiModel):
    """Where the artifact goes; exactly one connector."""

    name: Name
    """name in status."""
    replace: bool = False
    """replace other content at the target instead of TargetConflict."""
    s3: S3 | None = None
    """s3 bucket and prefix."""
    volume_claim: VolumeClaim | None = None
    """volumeClaim is a folder on a volume."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "[has(self.s3),has(self.volumeClaim)].filter(x, x).size() == 1",
            "each target has exactly one of s3, volumeClaim",
        ),
    )


class Verification(ApiModel):
    """Gate before Ready: fresh load, digests, logits against the trained model, one sample."""

    prompts: list[Annotated[str, StringConstraints(min_length=1, max_length=4096)]] | None = Field(
        default=None, max_length=16
    )
    """prompts of own samples; absent = validation prompts."""
    max_new_tokens: int = Field(default=64, ge=1, le=4096)
    """maxNewTokens of a sample."""
    max_logit_difference: float | None = Field(default=None, gt=0)
    """maxLogitDifference tolerated; absent = 1e-4 in Float32, 0.15 in 16 bit."""


class ExportSpec(ApiModel):
    """What is to be published."""

    source: ExportSource
    """source is what is exported."""
    format: ExportFormat = ExportFormat.MERGED
    """format: Merged is the whole model, Adapter the adapter with its base's commit."""
    merge: Merge | None = None
    """merge is for format Merged: how an adapter enters its base."""
    max_shard_size: Quantity = "5Gi"
    """maxShardSize is the largest weight file."""
    card: Card = Card()
    """card is the model card."""
    targets: list[Target] | None = Field(
        default=None,
        max_length=8,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    """targets are where the artifact goes; absent = it stays in storage."""
    verification: Verification = Verification()
    """verification is the gate before Ready; it cannot be switched off."""
    hub: Hub = Hub()
    """hub is access to the Hugging Face Hub."""
    storage: Storage = Storage()
    """storage is where the artifact is written; absent = operator's default."""
    compute: Compute = Compute()
    """compute is what the pod runs and needs."""
    scheduling: Scheduling = Scheduling()
    """scheduling is where the pod is placed."""
    network_policy: NetworkPolicy = NetworkPolicy()
    """networkPolicy is who may connect to the pods, and where these may connect to."""
    pod_overrides: PodOverrides | None = None
    """podOverrides is part of a pod template, merged over every pod of the object."""
    run_policy: RunPolicy = RunPolicy()
    """runPolicy holds suspension, deadlines and retries."""
    rerun: Name | None = None
    """rerun is a free token: a new value ends what runs and starts a new revision."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.format == 'Merged' || !has(self.merge)",
            "an adapter export has no merge; remove merge or set format Merged",
        ),
    )


class ExportProgress(ApiModel):
    """How far the Job is."""

    percentage: int = Field(ge=0, le=100)
    """percentage of the work done."""
    stage: str = Field(max_length=63)
    """stage is what the Job does now."""
    update_time: datetime | None = None
    """updateTime is when this was read."""


class ExportSourceStatus(ApiModel):
    """What is exported, resolved once."""

    name: str = Field(max_length=253)
    """name of the experiment."""
    digest: str = Field(max_length=71)
    """digest of the checkpoint."""
    uri: str = Field(default="", max_length=256)
    """uri of the checkpoint."""
    step: int = 0
    """step of the checkpoint."""
    base_model: str = Field(default="", max_length=253)
    """baseModel is the name or place of the base model."""
    base_commit: str | None = Field(default=None, max_length=64)
    """baseCommit of a Hub base."""


class ExportArtifact(ApiModel):
    """What was written to storage."""

    uri: str = Field(max_length=1024)
    """uri in storage."""
    digest: str = Field(max_length=71)
    """digest of the manifest."""
    size: str = Field(max_length=32)
    """size of all files."""
    files: int
    """files written."""
    dtype: str = Field(max_length=32)
    """dtype of the weights."""


class VerificationStatus(ApiModel):
    """Numbers of the gate."""

    max_logit_difference: float
    """maxLogitDifference seen."""
    mean_logit_difference: float
    """meanLogitDifference seen."""
    samples: int
    """samples generated."""
    ended: int
    """ended counts samples that stopped by themselves."""


class TargetStatus(ApiModel):
    """What became of one target."""

    name: Name
    """name of the target."""
    state: str = Field(max_length=32)
    """state: Pushed or Failed."""
    uri: str = Field(default="", max_length=256)
    """uri of the artifact there."""
    message: str = Field(default="", max_length=256)
    """message of a failure."""


class ExportStatus(ObjectStatus):
    """What became of the export."""

    source: ExportSourceStatus | None = None
    """source as resolved."""
    progress: ExportProgress | None = None
    """progress while running."""
    artifact: ExportArtifact | None = None
    """artifact in storage."""
    verification: VerificationStatus | None = None
    """verification numbers."""
    targets: list[TargetStatus] = Field(
        default_factory=list,
        max_length=8,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    """targets and their state."""
    pushed: str | None = Field(default=None, max_length=15)
    """pushed targets of all, as text."""


class ModelExport(ApiModel):
    """ModelExport merges, verifies and publishes the result of an experiment."""

    metadata: ObjectMeta
    spec: ExportSpec
    status: ExportStatus = ExportStatus()
