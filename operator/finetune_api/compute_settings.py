"""Pods: what they run, what they need, where they are placed."""

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
