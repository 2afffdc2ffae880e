"""Where bytes lie: volume claims, S3, the Hub, and the storage block of every kind."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from finetune_api.meta import ApiModel, DnsName, Quantity, RelativePath, Rule, SecretRef, Url


class VolumeClaim(ApiModel):
    """A folder or file on a PersistentVolumeClaim."""

    claim_name: DnsName
    """claimName is a PersistentVolumeClaim of this namespace; S3-backed ones included."""

    path: RelativePath | None = None
    """path is a file or folder inside the volume."""


class S3(ApiModel):
    """A bucket or a part of it."""

    bucket: str = Field(min_length=3, max_length=63)
    """bucket is the bucket's name."""

    prefix: RelativePath | None = None
    """prefix is an object key or key prefix."""

    endpoint: Url | None = None
    """endpoint is a server other than AWS."""

    region: str | None = Field(default=None, min_length=1, max_length=64)
    """region of the bucket; absent = the client's own lookup."""

    path_style: bool = False
    """pathStyle puts the bucket into the path instead of the host name."""

    anonymous: bool = False
    """anonymous sends unsigned requests."""

    secret_ref: SecretRef | None = None
    """secretRef holds AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; absent = the pod's identity."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!(self.anonymous && has(self.secretRef))",
            "anonymous requests carry no keys; remove anonymous or secretRef",
        ),
        Rule(
            "!has(self.secretRef) || !has(self.secretRef.key)",
            "S3 needs two keys; put AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY into the Secret "
            "and remove secretRef.key",
        ),
    )


class Hub(ApiModel):
    """Access to the Hugging Face Hub or a server that speaks its protocol."""

    endpoint: Url | None = None
    """endpoint is a hub other than the public one; absent = the operator's setting."""

    secret_ref: SecretRef | None = None
    """secretRef holds HF_TOKEN for gated or private repositories."""

    offline: bool = False
    """offline opens no connection to any hub."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!(self.offline && (has(self.secretRef) || has(self.endpoint)))",
            "offline opens no connection to a hub; remove secretRef and endpoint",
        ),
    )


class Location(ApiModel):
    """A place for results; exactly one member is set."""

    volume_claim: VolumeClaim | None = None
    """volumeClaim is where results are written."""

    s3: S3 | None = None
    """s3 is where results are written."""


class DeletionPolicy(StrEnum):
    """What may happen to written files once their object is deleted."""

    RETAIN = "Retain"
    DELETE = "Delete"


class Storage(Location):
    """Where results are written, how long, and how much local disk a pod gets."""

    deletion_policy: DeletionPolicy = DeletionPolicy.RETAIN
    """deletionPolicy Delete lets `finetune prune` remove what was written, once the object is
    deleted and no other object refers to it; the operator itself never removes anything."""

    scratch_size: Quantity | None = None
    """scratchSize bounds the local disk per pod for downloads and staging; absent = 20Gi."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!(has(self.volumeClaim) && has(self.s3))",
            "set at most one of volumeClaim and s3",
        ),
    )
