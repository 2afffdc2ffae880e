"""Who may connect to the pods of an object, and where these may connect to."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from finetune_api.meta import ApiModel, Name, Rule


class NetworkMode(StrEnum):
    """What is closed; enforcement is the network plug-in's."""

    NONE = "None"
    INGRESS = "Ingress"
    RESTRICTED = "Restricted"


Cidr = Annotated[
    str, StringConstraints(min_length=1, max_length=43, pattern=r"^[0-9a-fA-F:.]+/[0-9]{1,3}$")
]


class NetworkPolicy(ApiModel):
    """The NetworkPolicy that every attempt gets."""

    mode: NetworkMode = NetworkMode.INGRESS
    """mode: Ingress lets pods of this object, the operator and the monitoring namespaces in;
    Restricted closes the way out as well, except to DNS, pods of this object and the lists."""
    egress_cidrs: list[Cidr] | None = Field(default=None, min_length=1, max_length=32)
    """egressCidrs are address ranges that Restricted pods reach."""
    egress_namespaces: list[Name] | None = Field(default=None, min_length=1, max_length=16)
    """egressNamespaces are namespaces that Restricted pods reach."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.mode == 'Restricted' || (!has(self.egressCidrs) && !has(self.egressNamespaces))",
            "egressCidrs and egressNamespaces act with mode Restricted only",
        ),
    )
