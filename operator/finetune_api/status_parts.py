"""Status that all kinds share."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from finetune_api.meta import ApiModel, Condition


class AttemptStatus(ApiModel):
    """The attempt that is, or was last, under way."""

    number: int = Field(default=0, ge=0)
    """number counts attempts of all revisions; 0 = none yet. It never goes down."""
    generation: int = Field(default=0, ge=0)
    """generation of the spec that it runs."""
    created_time: datetime | None = None
    """createdTime is when it was recorded; it waits for a node from then on."""
    started_time: datetime | None = None
    """startedTime is when its first pod was bound to a node."""
    stopping: str | None = Field(default=None, max_length=63)
    """stopping is the deadline, Hang or spent budget for which it is ended, once recorded."""
    world_size: int | None = None
    """worldSize is the number of ranks."""
    gpus: int | None = None
    """gpus that it holds while its pods are on nodes."""
    ended: str | None = Field(default=None, max_length=63)
    """ended is the failure class, Completed or Suspended once the end is recorded."""
    ended_time: datetime | None = None
    """endedTime is when the end was recorded."""


class Restarts(ApiModel):
    """Spent against runPolicy.retries in this revision."""

    disruption: int = 0
    """disruption restarts."""
    external_service: int = 0
    """externalService restarts."""
    unknown: int = 0
    """unknown restarts."""
    peer_lost: int = 0
    """peerLost restarts."""
    hang: int = 0
    """hang restarts: the operator saw no sign of life."""
    gpu_out_of_memory: int = 0
    """gpuOutOfMemory restarts, each with half the tokens per micro-batch."""
    start_timeout: int = 0
    """startTimeout restarts."""


class AttemptRecord(ApiModel):
    """One ended attempt."""

    number: int
    """number of the attempt."""
    revision: int = 1
    """revision it belongs to."""
    stage: str = Field(default="attempt", max_length=16)
    """stage is prepare or attempt."""
    start_time: datetime | None = None
    """startTime is when its first pod was bound to a node."""
    end_time: datetime | None = None
    """endTime is when its end was recorded."""
    outcome: str = Field(max_length=63)
    """outcome is the reason of the end."""
    failure_class: str = Field(default="", max_length=32, alias="class")
    """class is the failure class."""
    exit_code: int | None = None
    """exitCode of the rank that failed first."""
    rank: int | None = None
    """rank that failed first."""
    first_step: int | None = None
    """firstStep it went on from; absent if it took none."""
    last_step: int | None = None
    """lastStep reported."""
    last_step_time: datetime | None = None
    """lastStepTime is when the last step was reported."""
    step_seconds: float | None = None
    """stepSeconds it spent in steps."""
    recovery_seconds: int | None = None
    """recoverySeconds from its last step to the first one beyond it, taken by a later attempt."""
    message: str = Field(default="", max_length=256)
    """message of the end."""


class RevisionRecord(ApiModel):
    """One ended revision."""

    revision: int
    """revision that ended."""
    rerun: str | None = Field(default=None, max_length=63)
    """rerun is its token."""
    outcome: str = Field(max_length=63)
    """outcome is the reason of its end."""
    completion_time: datetime | None = None
    """completionTime of its terminal state."""
    uri: str | None = Field(default=None, max_length=256)
    """uri of its result."""
    digest: str | None = Field(default=None, max_length=71)
    """digest of its result."""


class ArtifactStatus(ApiModel):
    """A file or folder that lies in storage."""

    name: str = Field(max_length=63)
    """name: report, snapshot, checkpoint, export."""
    uri: str = Field(max_length=256)
    """uri in storage."""
    digest: str | None = Field(default=None, max_length=71)
    """digest of its content or manifest."""


class WarningStatus(ApiModel):
    """Accepted but noteworthy."""

    reason: str = Field(max_length=63)
    """reason is one word."""
    message: str = Field(max_length=256)
    """message is a sentence."""


class Children(ApiModel):
    """Names of what the operator made for this object."""

    prepare_job: str | None = Field(default=None, max_length=63)
    """prepareJob checks and prepares on CPU."""
    job: str | None = Field(default=None, max_length=63)
    """job of the present attempt."""
    service: str | None = Field(default=None, max_length=63)
    """service gives ranks their addresses."""
    config_map: str | None = Field(default=None, max_length=63)
    """configMap holds the run configuration."""


class ObjectStatus(ApiModel):
    """What the operator observed; complete on every write."""

    observed_generation: int | None = None
    """observedGeneration is the generation this status judges."""
    revision: int = 0
    """revision counts runs of this object, from 1."""
    rerun: str | None = Field(default=None, max_length=63)
    """rerun is the token this revision belongs to."""
    fence: int | None = None
    """fence is the number of the operator that wrote last; it never goes down."""
    attempt: AttemptStatus = AttemptStatus()
    """attempt that is, or was last, under way."""
    conditions: list[Condition] = Field(
        default_factory=list,
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    """conditions judge the object, one per type."""
    start_time: datetime | None = None
    """startTime of the first attempt."""
    completion_time: datetime | None = None
    """completionTime of the terminal state."""
    active_seconds: int = 0
    """activeSeconds that ended attempts held nodes."""
    restarts: Restarts = Restarts()
    """restarts spent per failure class."""
    revisions: list[RevisionRecord] = Field(default_factory=list, max_length=5)
    """revisions that ended before this one, newest first."""
    history: list[AttemptRecord] = Field(default_factory=list, max_length=10)
    """history of ended attempts, newest first."""
    artifacts: list[ArtifactStatus] = Field(
        default_factory=list,
        max_length=12,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    """artifacts in storage."""
    warnings: list[WarningStatus] = Field(default_factory=list, max_length=8)
    """warnings: accepted but noteworthy."""
    children: Children = Children()
    """children are the names of what was made."""
