"""What an administrator settles for the network between the ranks of an attempt."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator

from finetune_api.compute_settings import ResourceName, is_owned_variable
from finetune_api.meta import ConfigModel, Quantity

_VariableName = Annotated[
    str, StringConstraints(max_length=253, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
]


class NetworkProfile(ConfigModel):
    """What rank pods get where spec.compute.networkProfile names it."""

    environment: dict[_VariableName, str] = Field(default_factory=dict)
    """environment variables such as NCCL_IB_HCA; those of spec.compute.env win."""
    resources: dict[ResourceName, Quantity] = Field(default_factory=dict)
    """resources are limits of extended resources such as rdma/hca or vpc.amazonaws.com/efa."""
    capabilities: list[Literal["IPC_LOCK"]] = Field(default_factory=list)
    """capabilities of the trainer's container. RDMA needs IPC_LOCK, the one exception from the
    restricted Pod Security Standard: the namespace must allow it."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """annotations of rank pods, such as k8s.v1.cni.cncf.io/networks."""

    @field_validator("environment")
    @classmethod
    def _no_owned_variable(cls, found: dict[str, str]) -> dict[str, str]:
        owned = sorted(name for name in found if is_owned_variable(name))
        if owned:
            raise ValueError(f"{', '.join(owned)}: set by the operator; remove it")
        return found
