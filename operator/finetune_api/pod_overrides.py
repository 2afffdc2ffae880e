"""What users may add to the pods of an object: an open list of fields, a closed list of dangers.

Only what can be given has a field. What the operator owns, and what would lift the restricted Pod
Security Standard, has none or is refused by a rule, so that no content needs to be judged later.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints
from pydantic.config import JsonDict

from finetune_api.compute_settings import VARIABLE_IS_FREE, VARIABLE_IS_NO_SECRET, Resources
from finetune_api.meta import ApiModel, Rule
from finetune_api.names import (
    CLAIMS_DIR,
    CONTAINER,
    SCRATCH_DIR,
    SECRETS_DIR,
    SHARED_MEMORY_DIR,
)

Open = Annotated[
    dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})
]
"""An object of Kubernetes' own; the API server checks its content in the pod's template."""
BY_NAME: JsonDict = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
ItemName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"),
]
Word = Annotated[str, StringConstraints(max_length=1024)]
_MapKey = Annotated[str, StringConstraints(min_length=1, max_length=317)]
_OWN_KEYS = (
    *("finetune.dev/", "app.kubernetes.io/", "batch.kubernetes.io/", "jobset.sigs.k8s.io/"),
    *("kueue.x-k8s.io/", "scheduling.k8s.io/", "scheduling.volcano.sh/"),
    "container.apparmor.security.beta.kubernetes.io/",
)
_OWN_PATHS = ("/etc/finetune", CLAIMS_DIR, SECRETS_DIR, SCRATCH_DIR, SHARED_MEMORY_DIR, "/dev")
_OWN_VOLUMES = "^(config|scratch|template|shared-memory|(claim|secret)-[0-9]+)$"


def _keys_are_free(field: str) -> Rule:
    own = ", ".join(repr(key) for key in _OWN_KEYS)
    return Rule(
        f"!has(self.{field}) || !self.{field}.exists(key, "
        f"[{own}].exists(own, key.startsWith(own)))",
        f"{field} of the operator, of Jobs and of queues are theirs to set",
    )


class AddedMetadata(ApiModel):
    """Labels and annotations of pods."""

    labels: dict[_MapKey, Annotated[str, StringConstraints(max_length=63)]] | None = Field(
        default=None, max_length=32
    )
    """labels beside the operator's own."""
    annotations: dict[_MapKey, Annotated[str, StringConstraints(max_length=4096)]] | None = Field(
        default=None, max_length=32
    )
    """annotations beside the operator's own."""

    rules: ClassVar[tuple[Rule, ...]] = (_keys_are_free("labels"), _keys_are_free("annotations"))


class ValueFrom(ApiModel):
    """Where a variable's value comes from; Secrets are mounted as files instead."""

    field_ref: Open | None = None
    """fieldRef as in a Pod."""
    resource_field_ref: Open | None = None
    """resourceFieldRef as in a Pod."""
    config_map_key_ref: Open | None = None
    """configMapKeyRef as in a Pod."""


class AddedVariable(ApiModel):
    """One environment variable, as in a Pod."""

    name: str = Field(min_length=1, max_length=253, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """name of the variable."""
    value: str | None = Field(default=None, max_length=4096)
    """value, literally."""
    value_from: ValueFrom | None = None
    """valueFrom as in a Pod, without secretKeyRef."""

    rules: ClassVar[tuple[Rule, ...]] = (VARIABLE_IS_FREE, VARIABLE_IS_NO_SECRET)


class AddedMount(ApiModel):
    """A volume in a container."""

    name: ItemName
    """name of the volume."""
    mount_path: str = Field(min_length=2, max_length=512, pattern=r"^/[^:]+$")
    """mountPath outside the operator's own folders."""
    sub_path: str | None = Field(default=None, max_length=512)
    """subPath inside the volume."""
    read_only: bool | None = None
    """readOnly as in a Pod."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"![{', '.join(repr(path) for path in _OWN_PATHS)}].exists(own, "
            "self.mountPath == own || self.mountPath.startsWith(own + '/'))",
            f"the operator mounts {', '.join(_OWN_PATHS)}",
        ),
    )


class TrainerOverrides(ApiModel):
    """What is added to the trainer's container; image, variables and resources are in compute."""

    name: ItemName
    """name is trainer."""
    env: list[AddedVariable] | None = Field(default=None, max_length=64, json_schema_extra=BY_NAME)
    """env beside the operator's own."""
    volume_mounts: list[AddedMount] | None = Field(default=None, max_length=16)
    """volumeMounts of added volumes."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"self.name == '{CONTAINER}'",
            "only the trainer is named here; others are initContainers, with restartPolicy Always "
            "if they run beside it",
        ),
    )


class AddedContainer(ApiModel):
    """A container that runs before the trainer, or beside it; restricted as the trainer is."""

    name: ItemName
    """name other than trainer."""
    image: str = Field(min_length=1, max_length=512)
    """image of the container."""
    command: list[Word] | None = Field(default=None, max_length=64)
    """command as in a Pod."""
    args: list[Word] | None = Field(default=None, max_length=64)
    """args as in a Pod."""
    env: list[AddedVariable] | None = Field(default=None, max_length=64, json_schema_extra=BY_NAME)
    """env as in a Pod."""
    volume_mounts: list[AddedMount] | None = Field(default=None, max_length=16)
    """volumeMounts of added volumes."""
    resources: Resources | None = None
    """resources as in a Pod."""
    restart_policy: Literal["Always"] | None = None
    """restartPolicy Always lets it run beside the trainer, until that ends."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(f"self.name != '{CONTAINER}'", "the trainer's container is the operator's"),
    )


class AddedVolume(ApiModel):
    """A volume of a type that the restricted Pod Security Standard knows."""

    name: ItemName
    """name other than the operator's own."""
    config_map: Open | None = None
    """configMap as in a Pod."""
    csi: Open | None = None
    """csi as in a Pod."""
    downward_api: Open | None = Field(default=None, alias="downwardAPI")
    """downwardAPI as in a Pod."""
    empty_dir: Open | None = None
    """emptyDir as in a Pod."""
    ephemeral: Open | None = None
    """ephemeral as in a Pod."""
    persistent_volume_claim: Open | None = None
    """persistentVolumeClaim as in a Pod."""
    projected: Open | None = None
    """projected as in a Pod."""
    secret: Open | None = None
    """secret as in a Pod."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(f"!self.name.matches('{_OWN_VOLUMES}')", "this volume is the operator's"),
        Rule(
            "[has(self.configMap), has(self.csi), has(self.downwardAPI), has(self.emptyDir), "
            "has(self.ephemeral), has(self.persistentVolumeClaim), has(self.projected), "
            "has(self.secret)].filter(given, given).size() == 1",
            "give the volume exactly one type",
        ),
    )


class PodIdentity(ApiModel):
    """Who the pod's processes are; never root."""

    run_as_user: int | None = Field(default=None, ge=1, le=2147483647)
    """runAsUser instead of the operator's choice."""
    run_as_group: int | None = Field(default=None, ge=1, le=2147483647)
    """runAsGroup instead of the operator's choice."""
    fs_group: int | None = Field(default=None, ge=1, le=2147483647)
    """fsGroup instead of the operator's choice."""
    fs_group_change_policy: Literal["OnRootMismatch", "Always"] | None = None
    """fsGroupChangePolicy as in a Pod."""
    supplemental_groups: list[Annotated[int, Field(ge=1, le=2147483647)]] | None = Field(
        default=None, max_length=16
    )
    """supplementalGroups as in a Pod."""


class DnsPolicy(StrEnum):
    """Which name servers a pod asks."""

    CLUSTER_FIRST = "ClusterFirst"
    DEFAULT = "Default"
    NONE = "None"


class AddedPodSpec(ApiModel):
    """What can be added to a pod's spec."""

    affinity: Open | None = None
    """affinity as in a Pod."""
    topology_spread_constraints: list[Open] | None = Field(default=None, max_length=8)
    """topologySpreadConstraints as in a Pod."""
    host_aliases: list[Open] | None = Field(default=None, max_length=16)
    """hostAliases as in a Pod."""
    dns_policy: DnsPolicy | None = None
    """dnsPolicy as in a Pod."""
    dns_config: Open | None = None
    """dnsConfig as in a Pod."""
    security_context: PodIdentity | None = None
    """securityContext: user and groups."""
    volumes: list[AddedVolume] | None = Field(
        default=None, max_length=16, json_schema_extra=BY_NAME
    )
    """volumes beside the operator's own."""
    init_containers: list[AddedContainer] | None = Field(
        default=None, max_length=8, json_schema_extra=BY_NAME
    )
    """initContainers run before the trainer, or beside it."""
    containers: list[TrainerOverrides] | None = Field(default=None, max_length=1)
    """containers names the trainer only."""


class PodOverrides(ApiModel):
    """Part of a pod template that is merged over every pod of the object.

    Maps merge, lists of named things merge by name, other values replace.
    """

    metadata: AddedMetadata | None = None
    """metadata of the pods."""
    spec: AddedPodSpec | None = None
    """spec of the pods."""
