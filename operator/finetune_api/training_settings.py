"""Optimisation. Every rate, cadence and limit counts optimizer updates."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from finetune_api.meta import ApiModel, Rule
from finetune_api.model_settings import Dtype


class ProblemType(StrEnum):
    """What is learned."""

    CAUSAL_LM = "CausalLM"
    PRETRAINING = "Pretraining"


class Mode(StrEnum):
    """Whether weights change."""

    TRAIN = "Train"
    EVALUATE = "Evaluate"


class Preset(StrEnum):
    """Versioned values for what is left open."""

    QUICK_LOOK = "QuickLook"
    BALANCED = "Balanced"
    QUALITY = "Quality"
    LOW_MEMORY = "LowMemory"


class Batching(StrEnum):
    """How the samples of a step share micro-batches."""

    AUTO = "Auto"
    PACKED = "Packed"
    PADDED = "Padded"


class LossAveraging(StrEnum):
    """What a step's loss is the mean of."""

    TOKENS = "Tokens"
    SAMPLES = "Samples"


class OptimizerName(StrEnum):
    """The optimizer."""

    ADAMW = "AdamW"
    ADAMW_8BIT = "AdamW8bit"
    PAGED_ADAMW_32BIT = "PagedAdamW32bit"
    PAGED_ADAMW_8BIT = "PagedAdamW8bit"
    ADAM = "Adam"
    SGD = "SGD"
    RMSPROP = "RMSprop"
    ADADELTA = "Adadelta"


class Scheduler(StrEnum):
    """Shape of the learning rate after warm-up."""

    CONSTANT = "Constant"
    LINEAR = "Linear"
    COSINE = "Cosine"
    COSINE_WITH_RESTARTS = "CosineWithRestarts"
    INVERSE_SQRT = "InverseSqrt"
    WARMUP_STABLE_DECAY = "WarmupStableDecay"


class GradientCheckpointing(StrEnum):
    """Which layers recompute their activations in backward."""

    AUTO = "Auto"
    ALWAYS = "Always"
    NEVER = "Never"


class Compile(StrEnum):
    """Whether each decoder layer is compiled."""

    NEVER = "Never"
    AUTO = "Auto"
    ALWAYS = "Always"


class NonFinitePolicy(StrEnum):
    """What follows an update that is not finite."""

    FAIL = "Fail"
    SKIP = "Skip"
    ROLLBACK = "Rollback"


ParameterName = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class ParameterGroup(ApiModel):
    """Parameters with values of their own."""

    match: list[ParameterName] = Field(min_length=1, max_length=32)
    """match: backbone, embeddings, head, or a part of the parameter's name; no match is refused."""
    learning_rate: float | None = Field(default=None, ge=0, le=10)
    """learningRate is the peak rate of the group."""
    weight_decay: float | None = Field(default=None, ge=0, le=1)
    """weightDecay of the group."""


class Training(ApiModel):
    """Optimisation. A step is one optimizer update over all ranks."""

    epochs: float | None = Field(default=None, gt=0, le=1000)
    """epochs are passes over the training samples; fractions allowed; absent = by preset."""
    max_steps: int | None = Field(default=None, ge=1)
    """maxSteps instead of epochs."""
    per_device_batch_size: int | None = Field(default=None, ge=1, le=4096)
    """perDeviceBatchSize is samples per rank at once; absent = by preset. With globalBatchSize it
    bounds the micro-batch at perDeviceBatchSize x maxLength tokens, else it is a factor of the
    batch."""
    gradient_accumulation_steps: int = Field(default=1, ge=1, le=4096)
    """gradientAccumulationSteps: global batch = ranks x perDeviceBatchSize x this."""
    global_batch_size: int | None = Field(default=None, ge=1, le=1048576)
    """globalBatchSize is samples per step given directly, the same on any number of GPUs."""
    global_batch_tokens: int | None = Field(default=None, ge=64)
    """globalBatchTokens is tokens per step instead of samples."""
    max_tokens_per_device: int | None = Field(default=None, ge=64)
    """maxTokensPerDevice bounds a micro-batch: speed and memory only, never which samples form a
    step; absent = perDeviceBatchSize x maxLength."""
    batching: Batching = Batching.AUTO
    """batching: Packed lays the samples of a step end to end with attention inside each, Padded
    sorts them by length; Auto = Packed where the architecture can."""
    drop_last_batch: bool = False
    """dropLastBatch drops the smaller last step of an epoch; else it has its own normalisation."""
    loss_averaging: LossAveraging = LossAveraging.TOKENS
    """lossAveraging: Tokens divides by the supervised tokens of the whole step, Samples is the mean
    over samples of each one's mean."""
    label_smoothing: float = Field(default=0.0, ge=0, le=0.5)
    """labelSmoothing of the cross-entropy."""
    optimizer: OptimizerName = OptimizerName.ADAMW
    """optimizer: all AdamW variants decay decoupled, Adam coupled; SGD is Nesterov; RMSprop has
    alpha 0.9."""
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    """adamBeta1 of the Adam family."""
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    """adamBeta2 of the Adam family."""
    adam_epsilon: float = Field(default=1e-8, gt=0)
    """adamEpsilon of the Adam family."""
    momentum: float | None = Field(default=None, ge=0, lt=1)
    """momentum of SGD and RMSprop; absent = 0.9."""
    learning_rate: float | None = Field(default=None, ge=0, le=10)
    """learningRate is the peak rate; absent = 1e-4 with an adapter, 1e-5 in full."""
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    """weightDecay, never on tensors of one dimension: biases, norms, DoRA magnitudes."""
    max_grad_norm: float = Field(default=1.0, ge=0, le=1000)
    """maxGradNorm clips the L2 norm over all trainable gradients of all ranks; 0 = off."""
    scheduler: Scheduler = Scheduler.COSINE
    """scheduler is the rate's shape after warm-up; its length is fixed at the first attempt."""
    warmup_ratio: float = Field(default=0.03, ge=0, le=1)
    """warmupRatio is linear warm-up as a share of all steps."""
    warmup_steps: int | None = Field(default=None, ge=1)
    """warmupSteps instead of warmupRatio."""
    min_learning_rate_ratio: float = Field(default=0.0, ge=0, le=1)
    """minLearningRateRatio is floor / peak."""
    scheduler_cycles: int | None = Field(default=None, ge=1, le=100)
    """schedulerCycles of CosineWithRestarts; absent = 1."""
    decay_ratio: float | None = Field(default=None, gt=0, le=1)
    """decayRatio of WarmupStableDecay: share of decaying steps; absent = 0.1."""
    parameter_groups: list[ParameterGroup] | None = Field(default=None, min_length=1, max_length=16)
    """parameterGroups have values of their own; the first match wins, the rest uses the above."""
    freeze: list[ParameterName] | None = Field(default=None, min_length=1, max_length=64)
    """freeze names parameters left unchanged in full fine-tuning, as in match."""
    gradient_checkpointing: GradientCheckpointing = GradientCheckpointing.AUTO
    """gradientCheckpointing recomputes activations; Auto for as many layers as memory demands."""
    compute_dtype: Dtype = Dtype.AUTO
    """computeDtype of arithmetic; Auto = BFloat16 on GPUs that have it, else Float16 with dynamic
    loss scaling; Float32 on CPU."""
    compile: Compile = Compile.NEVER
    """compile of each decoder layer; Auto skips short runs."""
    non_finite_policy: NonFinitePolicy = NonFinitePolicy.FAIL
    """nonFinitePolicy: no update that is not finite is ever applied. Fail ends the run; Skip
    counts and fails above 5 in a row or 50 in all; Rollback starts again from the newest verified
    checkpoint before it with the rate times rollbackFactor."""
    rollback_factor: float | None = Field(default=None, gt=0, le=1)
    """rollbackFactor on the rate, for Rollback only; absent = 0.5."""
    probe_memory: bool = True
    """probeMemory runs one discarded forward and backward on the longest samples before step 1."""
    seed: int | None = Field(default=None, ge=0, le=2147483647)
    """seed; absent = drawn once from UID and revision and shown in status."""
    deterministic: bool = False
    """deterministic: bit-equal repeats; operations without a deterministic form are refused."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!(has(self.globalBatchSize) && has(self.globalBatchTokens)) && "
            "(self.gradientAccumulationSteps == 1 || (!has(self.globalBatchSize) && "
            "!has(self.globalBatchTokens)))",
            "give the batch one way - globalBatchSize, globalBatchTokens, or "
            "gradientAccumulationSteps",
        ),
        Rule("!(has(self.epochs) && has(self.maxSteps))", "set epochs or maxSteps"),
        Rule(
            "self.scheduler != 'Constant' || self.minLearningRateRatio == 0.0",
            "a constant schedule has no floor; remove minLearningRateRatio",
        ),
        Rule(
            "!has(self.warmupSteps) || self.warmupRatio == 0.03",
            "give the warm-up one way - warmupSteps or warmupRatio",
        ),
        Rule(
            "(!has(self.schedulerCycles) || self.scheduler == 'CosineWithRestarts') && "
            "(!has(self.decayRatio) || self.scheduler == 'WarmupStableDecay')",
            "schedulerCycles is for CosineWithRestarts, decayRatio for WarmupStableDecay",
        ),
        Rule(
            "!has(self.momentum) || self.optimizer in ['SGD','RMSprop']",
            "momentum acts with SGD and RMSprop only",
        ),
        Rule(
            "!has(self.rollbackFactor) || self.nonFinitePolicy == 'Rollback'",
            "rollbackFactor acts with nonFinitePolicy Rollback only",
        ),
    )
