"""How ranks share a model: the blocks of sharded strategies."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from finetune_api.meta import ApiModel, Rule


class Strategy(StrEnum):
    """How ranks share weights, gradients and optimizer state."""

    AUTO = "Auto"
    DDP = "DDP"
    FSDP = "FSDP"
    ZERO2 = "ZeRO2"
    ZERO3 = "ZeRO3"


class Offload(StrEnum):
    """Where state lives that a GPU does not hold."""

    NONE = "None"
    CPU = "CPU"


class DeepSpeed(ApiModel):
    """ZeRO2 and ZeRO3 only; what is absent is the library's default.

    Precision, batch, clipping, optimizer and gathering are the trainer's.
    """

    allgather_bucket_size: int | None = Field(default=None, ge=1)
    """allgatherBucketSize in elements, ZeRO2."""
    reduce_bucket_size: int | None = Field(default=None, ge=1)
    """reduceBucketSize in elements."""
    stage3_prefetch_bucket_size: int | None = Field(default=None, ge=0)
    """stage3PrefetchBucketSize in elements, ZeRO3."""
    stage3_param_persistence_threshold: int | None = Field(default=None, ge=0)
    """stage3ParamPersistenceThreshold in elements, ZeRO3."""
    stage3_max_live_parameters: int | None = Field(default=None, ge=0)
    """stage3MaxLiveParameters in elements, ZeRO3."""
    stage3_max_reuse_distance: int | None = Field(default=None, ge=0)
    """stage3MaxReuseDistance in elements, ZeRO3."""
    offload_optimizer: Offload = Offload.NONE
    """offloadOptimizer is where optimizer state lives."""
    offload_parameters: Offload = Offload.NONE
    """offloadParameters is where parameters live, ZeRO3."""
    overlap_communication: bool = True
    """overlapCommunication of gradients with backward."""
    contiguous_gradients: bool = True
    """contiguousGradients avoids fragmented memory."""
    config: (
        dict[
            Annotated[str, StringConstraints(min_length=1, max_length=64)],
            Annotated[str, StringConstraints(max_length=4096)],
        ]
        | None
    ) = Field(default=None, max_length=64)
    """config holds further entries of its configuration, each value as JSON; entries that the
    trainer owns are refused."""


class Resharding(StrEnum):
    """When a layer's weights are sharded again after its forward."""

    AUTO = "Auto"
    ALWAYS = "Always"
    NEVER = "Never"


class FSDP(ApiModel):
    """FSDP only: per-layer sharding, also of 4-bit bases."""

    reshard_after_forward: Resharding = Resharding.AUTO
    """reshardAfterForward: Auto only if memory demands it."""
    offload: Offload = Offload.NONE
    """offload of parameters, gradients and optimizer."""
    shard_group_size: int | None = Field(default=None, ge=1)
    """shardGroupSize is ranks per shard group; absent = all."""

    rules: ClassVar[tuple[Rule, ...]] = ()
