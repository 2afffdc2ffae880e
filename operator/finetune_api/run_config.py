"""What the operator hands to a job: one model per verb, unknown fields forbidden.

A config holds the object's spec as given and the facts that were resolved from others; no
secret ever stands in it, only the names of Secrets that are mounted as files.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from finetune_api.dataset import DatasetSpec
from finetune_api.experiment_plan import PlanStatus
from finetune_api.experiment_start import Start
from finetune_api.experiment_status import DatasetPin, ModelStatus
from finetune_api.finetune_experiment import ExperimentSpec
from finetune_api.meta import ConfigModel
from finetune_api.model_export import ExportSpec
from finetune_api.run_outcome import CheckpointRef
from finetune_api.storage import Location


class Identity(ConfigModel):
    """Whose job this is."""

    kind: str
    namespace: str
    name: str
    uid: str
    revision: int = Field(ge=1)
    attempt: int = Field(ge=1)

    @property
    def run(self) -> str:
        """Return the run id that progress answers carry."""
        return f"{self.uid}/{self.attempt}"


class SnapshotRef(ConfigModel):
    """A Dataset's snapshot: address, digest and where its credentials are mounted."""

    name: str
    uri: str
    digest: str
    location: Location


class DatasetJobConfig(ConfigModel):
    """Config of verb `dataset`."""

    version: Literal[1] = 1
    verb: Literal["dataset"] = "dataset"
    identity: Identity
    spec: DatasetSpec
    location: Location
    """location is spec.storage, or the operator's default."""
    prefix: str
    """prefix is the object's own folder below the location."""
    allowed_addresses: list[str] = Field(default_factory=list)
    """allowed_addresses are host names the administrator allows though they are private."""


class PreparationConfig(ConfigModel):
    """Config of verb `prepare`."""

    version: Literal[1] = 1
    verb: Literal["prepare"] = "prepare"
    identity: Identity
    spec: ExperimentSpec
    dataset: SnapshotRef
    validation: SnapshotRef | None = None
    """validation is the snapshot of dataset.validationName, all of whose splits are used."""
    test: SnapshotRef | None = None
    """test is the snapshot of dataset.testName, all of whose splits are used."""
    start: Start | None = None
    """start is the origin of model.fromExperiment; absent = spec.model itself."""
    location: Location
    prefix: str
    seed: int
    """seed is spec.training.seed, or drawn from UID and revision."""
    models_allowed: list[str] = Field(default_factory=list)
    """models_allowed are patterns of model names the administrator allows; empty = all."""


class TrainingConfig(ConfigModel):
    """Config of verb `train`: one attempt."""

    version: Literal[1] = 1
    verb: Literal["train"] = "train"
    identity: Identity
    spec: ExperimentSpec
    dataset: DatasetPin
    start: Start | None = None
    """start is the origin of model.fromExperiment; absent = spec.model itself."""
    model: ModelStatus
    plan: PlanStatus
    prepared_uri: str
    prepared_digest: str
    location: Location
    prefix: str
    ranks: int = Field(ge=1)
    """ranks of this attempt: nodes x processes per node."""
    prepared_revision: int = Field(default=1, ge=1)
    """prepared_revision is the revision whose preparation, and so whose checkpoints, are used."""
    grain: int = Field(ge=1)
    """grain is the number of ranks of the first attempt; packing depends on it alone."""
    start_deadline_seconds: int = 1800
    known_checkpoints: list[CheckpointRef] = Field(default_factory=list)
    """known_checkpoints were reported so far; one of these steps with another digest is refused."""


class ExportJobConfig(ConfigModel):
    """Config of verb `export`."""

    version: Literal[1] = 1
    verb: Literal["export"] = "export"
    identity: Identity
    spec: ExportSpec
    location: Location
    prefix: str
    experiment: str
    """experiment is the name of the source."""
    experiment_uid: str
    experiment_spec: ExperimentSpec
    dataset: DatasetPin
    dataset_license: str | None = None
    start: Start | None = None
    model: ModelStatus
    plan: PlanStatus
    metrics: dict[str, float] = Field(default_factory=dict)
    """metrics of the result, for the card."""
    baseline: dict[str, float] = Field(default_factory=dict)
    """baseline metrics at step 0, if measured."""
    checkpoint: CheckpointRef
    checkpoint_kind: Literal["Adapter", "Model"]
    checkpoint_location: Location
    prepared_uri: str
    prepared_digest: str
    report_uri: str = ""


RunConfig = DatasetJobConfig | PreparationConfig | TrainingConfig | ExportJobConfig

CONFIGS: dict[
    str, type[DatasetJobConfig | PreparationConfig | TrainingConfig | ExportJobConfig]
] = {
    "dataset": DatasetJobConfig,
    "prepare": PreparationConfig,
    "train": TrainingConfig,
    "export": ExportJobConfig,
}
