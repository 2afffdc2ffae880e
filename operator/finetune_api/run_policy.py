"""Pods and their life: compute, scheduling, retries, suspension."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from finetune_api.meta import ApiModel, DnsName, Quantity, Rule
from finetune_api.strategy_settings import Strategy


class ImagePullPolicy(StrEnum):
    """When the kubelet pulls."""

    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


class EnvVar(ApiModel):
    """One literal environment variable."""

    name: str = Field(min_length=1, max_length=253, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """name of the variable."""

    value: str = Field(default="", max_length=4096)
    """value, literally."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!(self.name in ['MASTER_ADDR','MASTER_PORT','WORLD_SIZE','RANK','LOCAL_RANK',"
            "'LOCAL_WORLD_SIZE','HOME','TMPDIR','HF_TOKEN','HF_HOME']) "
            "&& !self.name.startsWith('PET_') && !self.name.startsWith('FINETUNE_')",
            "this variable is set by the operator",
        ),
        Rule(
            "!self.name.matches('(?i)(^|_)(token|secret|password|passwd|api_?key|access_?key)(_|$)')",
            "secrets do not belong into a spec; use a secretRef",
        ),
    )


class TolerationOperator(StrEnum):
    """How a toleration matches."""

    EXISTS = "Exists"
    EQUAL = "Equal"


class Toleration(ApiModel):
    """A taint to tolerate, as in a Pod."""

    key: str | None = Field(default=None, max_length=316)
    """key of the taint; absent with operator Exists = all."""
    operator: TolerationOperator | None = None
    """operator is Exists or Equal."""
    value: str | None = Field(default=None, max_length=63)
    """value of the taint."""
    effect: str | None = Field(default=None, max_length=32)
    """effect of the taint; absent = all."""
    toleration_seconds: int | None = Field(default=None, ge=0)
    """tolerationSeconds bounds how long NoExecute is tolerated."""


ResourceName = Annotated[str, StringConstraints(min_length=1, max_length=253)]


class Resources(ApiModel):
    """CPU, memory and ephemeral storage of a pod."""

    requests: dict[ResourceName, Quantity] | None = Field(default=None, max_length=16)
    """requests as in a Pod."""
    limits: dict[ResourceName, Quantity] | None = Field(default=None, max_length=16)
    """limits as in a Pod; an absent memory limit equals the memory request."""


class Compute(ApiModel):
    """What a pod runs and needs."""

    image: str | None = Field(default=None, min_length=1, max_length=512)
    """image of the job pods; absent = the operator's image of its release."""
    image_pull_policy: ImagePullPolicy | None = None
    """imagePullPolicy as in Kubernetes."""
    image_pull_secrets: list[DnsName] | None = Field(default=None, max_length=8)
    """imagePullSecrets are names of registry Secrets."""
    service_account_name: DnsName | None = None
    """serviceAccountName is the identity for cloud stores; its token is never mounted."""
    runtime_class_name: DnsName | None = None
    """runtimeClassName as in a Pod."""
    resources: Resources | None = None
    """resources per pod; GPUs come from their own fields."""
    env: list[EnvVar] | None = Field(
        default=None,
        max_length=64,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    """env is extra environment; names the operator owns or that look like secrets are refused."""
    node_selector: (
        dict[
            Annotated[str, StringConstraints(max_length=316)],
            Annotated[str, StringConstraints(max_length=63)],
        ]
        | None
    ) = Field(default=None, max_length=32)
    """nodeSelector holds labels a node must have."""
    tolerations: list[Toleration] | None = Field(default=None, max_length=16)
    """tolerations are taints to tolerate."""


class TrainingCompute(Compute):
    """Pods, GPUs and processes of an attempt."""

    nodes: int = Field(default=1, ge=1, le=512)
    """nodes is the number of pods of an attempt; all start and restart together."""
    gpus_per_node: int = Field(default=1, ge=0, le=16)
    """gpusPerNode is the number of GPUs per pod; 0 = CPU run for tests and tiny models."""
    processes_per_node: int | None = Field(default=None, ge=1, le=64)
    """processesPerNode is for CPU runs: ranks per pod; absent = 1."""
    gpu_resource_name: str = Field(default="nvidia.com/gpu", min_length=3, max_length=253)
    """gpuResourceName is the extended resource asked for; a MIG profile is named here."""
    gpu_memory: Quantity | None = None
    """gpuMemory is memory per GPU for the memory plan; a plan that does not fit is refused."""
    strategy: Strategy = Strategy.AUTO
    """strategy: Auto = DDP if weights, gradients and optimizer fit one GPU, else FSDP."""
    find_unused_parameters: bool = False
    """findUnusedParameters makes DDP tolerate parameters without gradient."""
    collective_timeout_seconds: int = Field(default=600, ge=10, le=86400)
    """collectiveTimeoutSeconds ends a rank whose collective takes longer with exit 40."""
    shared_memory: Quantity | None = None
    """sharedMemory per pod; absent = 1Gi per GPU, at least 2Gi; counts towards the memory limit."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.processesPerNode) || self.gpusPerNode == 0",
            "with GPUs there is one process per GPU; processesPerNode is for gpusPerNode 0",
        ),
    )


class Scheduling(ApiModel):
    """Where and when pods are placed."""

    priority_class_name: DnsName | None = None
    """priorityClassName is the pods' priority."""
    scheduler_name: DnsName | None = None
    """schedulerName is a scheduler other than the default."""
    queue_name: DnsName | None = None
    """queueName is a LocalQueue of Kueue: all pods of an attempt start when it has quota, and stop
    with a checkpoint when it takes that back. Preparations do not queue."""
    queue_priority_class_name: DnsName | None = None
    """queuePriorityClassName is a WorkloadPriorityClass of Kueue."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.queuePriorityClassName) || has(self.queueName)",
            "queuePriorityClassName acts in a queue only; set queueName",
        ),
    )


class Retries(ApiModel):
    """Budgets per failure class, totals of a revision; other classes are never repeated."""

    disruption: int = Field(default=100, ge=0, le=10000)
    """disruption: drain, eviction, preemption, node loss; a cap of its own."""
    external_service: int = Field(default=3, ge=0, le=1000)
    """externalService: a store or hub kept failing (exit 30)."""
    unknown: int = Field(default=3, ge=0, le=1000)
    """unknown: exit 1 and signals without a better cause."""
    start_timeout: int = Field(default=5, ge=0, le=10000)
    """startTimeout: not everything was up within startDeadlineSeconds."""


class OnGpuOutOfMemory(StrEnum):
    """What follows when a GPU's memory is exhausted."""

    FAIL = "Fail"
    REDUCE_BATCH = "ReduceBatch"


class TrainingRetries(Retries):
    """Budgets per failure class of an experiment."""

    gpu_out_of_memory: int | None = Field(default=None, ge=1, le=100)
    """gpuOutOfMemory with onGpuOutOfMemory ReduceBatch only; absent = 3."""

    peer_lost: int = Field(default=5, ge=0, le=1000)
    """peerLost: exit 40 without a better cause; all ranks restart from the newest checkpoint."""


class RunPolicy(ApiModel):
    """Suspension and retries."""

    suspend: bool = False
    """suspend stops the run: SIGTERM, checkpoint, pods deleted; false again continues it."""
    backoff_seconds: int = Field(default=10, ge=1, le=86400)
    """backoffSeconds is the first delay of an attempt, doubling; the first restart is at once."""
    max_backoff_seconds: int = Field(default=600, ge=1, le=86400)
    """maxBackoffSeconds is the longest delay of a new attempt."""
    start_deadline_seconds: int = Field(default=1800, ge=0)
    """startDeadlineSeconds from the first pod on a node until all of the attempt works; then it is
    stopped and what it holds is freed; 0 = off."""
    active_deadline_seconds: int = Field(default=0, ge=0)
    """activeDeadlineSeconds is the longest running time over all attempts, waiting for nodes
    excluded; the run then stops with a checkpoint and fails; 0 = off."""
    queue_deadline_seconds: int = Field(default=0, ge=0)
    """queueDeadlineSeconds is the longest wait of an attempt for its first node; 0 = off."""
    ttl_seconds_after_finished: int = Field(default=604800, ge=0)
    """ttlSecondsAfterFinished: the Jobs of a success, and their pods, are deleted after it."""
    retain_on_failure_seconds: int = Field(default=604800, ge=0)
    """retainOnFailureSeconds: the same after a failure; until then ended pods stay readable and
    hold no GPU."""
    retries: Retries = Retries()
    """retries are budgets per failure class."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.backoffSeconds <= self.maxBackoffSeconds",
            "backoffSeconds must not exceed maxBackoffSeconds",
        ),
    )


class TrainingRunPolicy(RunPolicy):
    """Suspension, retries and patience of an experiment."""

    retries: TrainingRetries = TrainingRetries()
    """retries are budgets per failure class."""
    grace_period_seconds: int | None = Field(default=None, ge=10, le=86400)
    """gracePeriodSeconds is from SIGTERM to SIGKILL; absent = 3 x slowest save, at least 30."""
    on_gpu_out_of_memory: OnGpuOutOfMemory = OnGpuOutOfMemory.FAIL
    """onGpuOutOfMemory: ReduceBatch makes the next attempt with half the tokens per micro-batch;
    the samples of a step, and so the update, stay the same."""
    hang_timeout_seconds: int = Field(default=600, ge=0, le=86400)
    """hangTimeoutSeconds without a step dumps stacks and restarts all ranks; 0 = off."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.retries.gpuOutOfMemory) || self.onGpuOutOfMemory == 'ReduceBatch'",
            "retries.gpuOutOfMemory acts with onGpuOutOfMemory ReduceBatch only",
        ),
    )
