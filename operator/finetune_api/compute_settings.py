"""Pods: what they run, what they need, where they are placed."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from finetune_api.meta import ApiModel, DnsName, Name, Quantity, Rule
from finetune_api.names import JOB_SET, POD_GROUP
from finetune_api.strategy_settings import Strategy


class ImagePullPolicy(StrEnum):
    """When the kubelet pulls."""

    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


_OWNED_VARIABLES = (
    *("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    *("HOME", "TMPDIR", "HF_TOKEN", "HF_HOME"),
)
VARIABLE_IS_FREE = Rule(
    f"!(self.name in [{','.join(repr(name) for name in _OWNED_VARIABLES)}]) "
    "&& !self.name.startsWith('PET_') && !self.name.startsWith('FINETUNE_')",
    "this variable is set by the operator",
)
VARIABLE_IS_NO_SECRET = Rule(
    "!self.name.matches('(?i)(^|_)(token|secret|password|passwd|api_?key|access_?key)(_|$)')",
    "secrets do not belong into a spec; use a secretRef",
)


def is_owned_variable(name: str) -> bool:
    """Tell whether the operator sets this environment variable itself."""
    return name in _OWNED_VARIABLES or name.startswith(("PET_", "FINETUNE_"))


class EnvVar(ApiModel):
    """One literal environment variable."""

    name: str = Field(min_length=1, max_length=253, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """name of the variable."""

    value: str = Field(default="", max_length=4096)
    """value, literally."""

    rules: ClassVar[tuple[Rule, ...]] = (VARIABLE_IS_FREE, VARIABLE_IS_NO_SECRET)


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


GpuProduct = Annotated[
    str,
    StringConstraints(
        min_length=1, max_length=63, pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
    ),
]
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
    gpu_products: list[GpuProduct] | None = Field(default=None, min_length=1, max_length=16)
    """gpuProducts are accepted values of the node label nvidia.com/gpu.product; without gpuMemory
    the memory plan takes the smallest of them whose names tell it."""
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
    network_profile: Name | None = None
    """networkProfile is a set of variables, devices and annotations for the network between ranks,
    named by the administrator (plain TCP, RoCE, EFA)."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.gpuProducts) || (self.gpusPerNode > 0 "
            "&& self.gpuResourceName.startsWith('nvidia.com/'))",
            "gpuProducts are values of a label of nodes with NVIDIA GPUs; ask for those, or use "
            "nodeSelector",
        ),
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

    @property
    def local_queue(self) -> str | None:
        """Return the queue of Kueue that suspends and resumes the children, if there is one."""
        return self.queue_name


class Engine(StrEnum):
    """The kind of child that runs all ranks of an attempt."""

    JOB = "Job"
    JOB_SET = "JobSet"


class Gang(StrEnum):
    """Who starts all pods of an attempt at once."""

    NONE = "None"
    KUEUE = "Kueue"
    VOLCANO = "Volcano"


class TopologyMode(StrEnum):
    """Whether pods of an attempt must share a place, or had better."""

    REQUIRED = "Required"
    PREFERRED = "Preferred"


class TrainingScheduling(Scheduling):
    """Where and when the pods of an attempt are placed, and what keeps them together."""

    queue_name: DnsName | None = None
    """queueName is a LocalQueue of Kueue: all pods of an attempt start when it has quota, and stop
    with a checkpoint when it takes that back. With gang Volcano it is a queue of Volcano.
    Preparations do not queue."""
    engine: Engine = Engine.JOB
    """engine is the child that runs an attempt; JobSet needs its controller in the cluster and the
    administrator's consent."""
    gang: Gang | None = None
    """gang starts all pods of an attempt at once or none; absent = Kueue with queueName, else None:
    then runPolicy.startDeadlineSeconds frees a half-started attempt. Volcano needs its scheduler
    in the cluster and the administrator's consent."""
    topology_key: str | None = Field(
        default=None, min_length=1, max_length=316, pattern=r"^[A-Za-z0-9][-A-Za-z0-9_./]*$"
    )
    """topologyKey is a node label whose value the pods of an attempt share; in a queue of Kueue it
    is a level of its Topology."""
    topology_mode: TopologyMode | None = None
    """topologyMode absent = Preferred."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.gang) || (self.gang == 'Kueue' ? has(self.queueName) : "
            "(self.gang == 'Volcano' || !has(self.queueName)))",
            "gang Kueue needs queueName, and gang None has no queue",
        ),
        Rule(
            "!has(self.gang) || self.gang != 'Volcano' "
            "|| (!has(self.queuePriorityClassName) && !has(self.schedulerName))",
            "gang Volcano is scheduled by Volcano: queuePriorityClassName is for Kueue, and "
            "schedulerName is set",
        ),
        Rule(
            "!has(self.topologyMode) || has(self.topologyKey)",
            "topologyMode needs topologyKey",
        ),
    )

    @property
    def local_queue(self) -> str | None:
        """Return the queue of Kueue; Volcano suspends nothing."""
        return None if self.gang == Gang.VOLCANO else self.queue_name

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return the kinds of children that not every cluster serves."""
        wanted = {JOB_SET: self.engine == Engine.JOB_SET, POD_GROUP: self.gang == Gang.VOLCANO}
        return tuple(kind for kind, is_wanted in wanted.items() if is_wanted)
