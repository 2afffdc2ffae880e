"""The resolved choices of a run, recorded before a GPU is asked for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from finetune_api.meta import ApiModel

Verdict = Literal["Fits", "FitsWithRecomputation", "NotJudged"]


class MemoryStatus(ApiModel):
    """The memory plan of one GPU, in bytes."""

    estimated_bytes: int
    """estimatedBytes at the peak of a step."""
    available_bytes: int | None = None
    """availableBytes is compute.gpuMemory; absent = not known, nothing was refused."""
    verdict: Verdict
    """verdict on the plan; NotJudged without availableBytes. One that does not fit is refused."""
    terms: dict[Annotated[str, StringConstraints(max_length=63)], int] = Field(
        default_factory=dict, max_length=8
    )
    """terms of the estimate: weights, trained, gathered, activations, router, attention,
    head, dequantisation; estimatedBytes adds 6 % and 1.5 GB for fragmentation and context."""


class PlanStatus(ApiModel):
    """Resolved choices, recorded before a GPU is asked for; a restart uses the recorded values."""

    template: str = Field(max_length=63)
    """template used."""
    compute_dtype: str = Field(max_length=63)
    """computeDtype used."""
    strategy: str = Field(max_length=63)
    """strategy used."""
    gpus: int
    """gpus of an attempt."""
    ranks: int
    """ranks of an attempt."""
    max_length: int
    """maxLength in tokens."""
    per_device_batch_size: int
    """perDeviceBatchSize in samples."""
    global_batch_size: int
    """globalBatchSize in samples per step."""
    max_tokens_per_device: int
    """maxTokensPerDevice of a micro-batch."""
    steps_per_epoch: int
    """stepsPerEpoch over all ranks."""
    total_steps: int
    """totalSteps of the run."""
    warmup_steps: int
    """warmupSteps of the schedule."""
    seed: int
    """seed of the run."""
    epochs: float
    """epochs of the run."""
    learning_rate: float
    """learningRate at the peak."""
    rank: int | None = None
    """rank of the adapter."""
    alpha: float | None = None
    """alpha of the adapter."""
    digest: str = Field(default="", max_length=71)
    """digest of everything that defines the trajectory."""
    global_batch_tokens: int | None = None
    """globalBatchTokens per step where a step is counted in tokens."""
    mask_token: int | None = None
    """maskToken is the id that stands for masked tokens."""
    validation_seen: bool = False
    """validationSeen: validation records are trained on too."""
    preset: str = Field(default="", max_length=63)
    """preset with its version."""
    quantization: str = Field(default="None", max_length=63)
    """quantization of the base used."""
    batching: str = Field(default="Packed", max_length=63)
    """batching used."""
    attention: str = Field(default="Auto", max_length=63)
    """attention used."""
    checkpointed_layers: int | None = None
    """checkpointedLayers are recomputed in backward; absent = decided on the device."""
    reshard_after_forward: bool = True
    """reshardAfterForward: FSDP lets a layer's gathered weights go after its forward."""
    memory: MemoryStatus | None = None
    """memory is the plan's estimate per GPU."""
