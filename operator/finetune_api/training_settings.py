"""What is trained and how: model, tokenizer, prompt, adapter, optimisation, evaluation."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from finetune_api.meta import ApiModel, Digest, DnsName, Repository, Rule, Text
from finetune_api.storage import S3, VolumeClaim


class ProblemType(StrEnum):
    """What is learned."""

    CAUSAL_LM = "CausalLM"


class Dtype(StrEnum):
    """Type of numbers."""

    AUTO = "Auto"
    BFLOAT16 = "BFloat16"
    FLOAT32 = "Float32"


class Model(ApiModel):
    """Starting weights; safetensors only, pickles are refused."""

    name: Repository | None = None
    """name is a Hub repository."""
    revision: str | None = Field(default=None, min_length=1, max_length=200)
    """revision is a branch, tag or commit for name; absent = main. The commit is recorded."""
    volume_claim: VolumeClaim | None = None
    """volumeClaim is a model folder in Hub layout on a volume."""
    s3: S3 | None = None
    """s3 is a model folder in Hub layout below a prefix."""
    dtype: Dtype = Dtype.AUTO
    """dtype in which frozen weights are held; Auto = training.computeDtype."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "[has(self.name),has(self.volumeClaim),has(self.s3)].filter(x, x).size() == 1",
            "set exactly one of name, volumeClaim, s3",
        ),
        Rule("!has(self.revision) || has(self.name)", "revision belongs to name"),
    )


class Overflow(StrEnum):
    """What happens to samples above the length limit."""

    TRUNCATE = "Truncate"
    DROP = "Drop"
    FAIL = "Fail"


class Tokenizer(ApiModel):
    """Text to tokens."""

    max_length: int | None = Field(default=None, ge=16, le=1048576)
    """maxLength is the longest sample in tokens; absent = maxLengthQuantile of the data."""
    max_length_quantile: float = Field(default=0.99, gt=0, le=1)
    """maxLengthQuantile for the automatic limit, rounded up to 64, at most the model's context."""
    overflow: Overflow = Overflow.TRUNCATE
    """overflow: Truncate cuts oldest exchanges first, the answer's end last; Drop; Fail."""
    max_truncated_share: float = Field(default=1.0, ge=0, le=1)
    """maxTruncatedShare: more truncated samples fail with TruncationLimit."""


class Template(StrEnum):
    """How records become text."""

    AUTO = "Auto"
    MODEL = "Model"
    CHATML = "ChatML"
    RAW = "Raw"


class TrainOnTurns(StrEnum):
    """Which answers are supervised."""

    ALL = "All"
    LAST = "Last"


class Prompt(ApiModel):
    """Records to text; one function renders for training, evaluation and export."""

    template: Template = Template.AUTO
    """template: Model is the tokenizer's chat template, Raw is prompt, answer, end token; Auto =
    Model where the tokenizer has a chat template, else Raw."""
    system: Text | None = None
    """system is the system text for records without one."""
    train_on_turns: TrainOnTurns = TrainOnTurns.ALL
    """trainOnTurns: All supervises every answer, Last only the final one."""


class ExperimentDataset(ApiModel):
    """Data of the run."""

    name: DnsName
    """name is a Dataset of this namespace; its digest is pinned when the run is prepared."""
    digest: Digest | None = None
    """digest refuses another snapshot (DigestMismatch)."""


class AdapterType(StrEnum):
    """What is trained."""

    LORA = "LoRA"
    NONE = "None"


class Adapter(ApiModel):
    """Low-rank training; checkpoints and exports hold the adapter, never the frozen base."""

    type: AdapterType = AdapterType.LORA
    """type selects the adapter; None is full fine-tuning."""
    rank: int | None = Field(default=None, ge=1, le=1024)
    """rank of the update; absent = 16."""
    alpha: float | None = Field(default=None, gt=0, le=4096)
    """alpha scales the update by alpha / rank; absent = 2 x rank."""
    rslora: bool = False
    """rslora scales the update by alpha / sqrt(rank)."""
    dropout: float = Field(default=0.0, ge=0, le=0.9)
    """dropout on the adapter's input."""
    target_modules: list[Annotated[str, StringConstraints(min_length=1, max_length=256)]] | None = (
        Field(default=None, min_length=1, max_length=128)
    )
    """targetModules are name suffixes; absent = all linear layers of the blocks."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.type != 'None' || (!has(self.rank) && !has(self.alpha) && !self.rslora "
            "&& self.dropout == 0.0 && !has(self.targetModules))",
            "adapter settings do not act in full fine-tuning; remove them or set type LoRA",
        ),
    )


class Scheduler(StrEnum):
    """Shape of the learning rate after warm-up."""

    CONSTANT = "Constant"
    LINEAR = "Linear"
    COSINE = "Cosine"


class Training(ApiModel):
    """Optimisation. A step is one optimizer update over all ranks."""

    epochs: float | None = Field(default=None, gt=0, le=1000)
    """epochs are passes over the training samples; fractions allowed; absent = 1."""
    max_steps: int | None = Field(default=None, ge=1)
    """maxSteps instead of epochs."""
    per_device_batch_size: int | None = Field(default=None, ge=1, le=4096)
    """perDeviceBatchSize is samples per rank at once; absent = 2. With globalBatchSize it bounds
    the micro-batch at perDeviceBatchSize x maxLength tokens, else it is a factor of the batch."""
    gradient_accumulation_steps: int = Field(default=1, ge=1, le=4096)
    """gradientAccumulationSteps: global batch = ranks x perDeviceBatchSize x this."""
    global_batch_size: int | None = Field(default=None, ge=1, le=1048576)
    """globalBatchSize is samples per step given directly, the same on any number of GPUs."""
    max_tokens_per_device: int | None = Field(default=None, ge=64)
    """maxTokensPerDevice bounds a micro-batch: speed and memory only, never which samples form a
    step; absent = perDeviceBatchSize x maxLength."""
    learning_rate: float | None = Field(default=None, ge=0, le=10)
    """learningRate is the peak rate; absent = 1e-4 with an adapter, 1e-5 in full."""
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    """weightDecay, decoupled, never on tensors of one dimension."""
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    """adamBeta1 of AdamW."""
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    """adamBeta2 of AdamW."""
    adam_epsilon: float = Field(default=1e-8, gt=0)
    """adamEpsilon of AdamW."""
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
    compute_dtype: Dtype = Dtype.AUTO
    """computeDtype of arithmetic; Auto = BFloat16 on GPUs that have it, Float32 on CPU."""
    seed: int | None = Field(default=None, ge=0, le=2147483647)
    """seed; absent = drawn once from UID and revision and shown in status."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.gradientAccumulationSteps == 1 || !has(self.globalBatchSize)",
            "give the batch one way - globalBatchSize or gradientAccumulationSteps",
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
    )


class Evaluation(ApiModel):
    """Loss and corpus perplexity on the validation split; always once more at the end."""

    every_epochs: float = Field(default=1.0, ge=0, le=1000)
    """everyEpochs: a fraction up to 1 of an epoch, or whole epochs; 0 = off."""
    every_steps: int = Field(default=0, ge=0)
    """everySteps are additional points every n steps; 0 = off."""
    at_start: bool = False
    """atStart is a baseline at step 0."""
    max_rows: int | None = Field(default=None, ge=1)
    """maxRows is a seeded subset; absent = all rows."""
    generate_samples: int = Field(default=4, ge=0, le=64)
    """generateSamples validation prompts are answered before and after training, for the report."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.everyEpochs <= 1.0 || self.everyEpochs == double(int(self.everyEpochs))",
            "everyEpochs is a fraction up to 1 or a whole number",
        ),
    )


class Generation(ApiModel):
    """How sample answers are generated."""

    max_new_tokens: int = Field(default=128, ge=1, le=131072)
    """maxNewTokens of an answer."""
    do_sample: bool = False
    """doSample: sampling instead of greedy decoding."""
    temperature: float | None = Field(default=None, gt=0, le=10)
    """temperature with sampling only; absent = 1."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """topP with sampling only."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.doSample || (!has(self.temperature) && !has(self.topP))",
            "greedy decoding has no temperature or topP; set doSample or remove them",
        ),
    )


class ResultChoice(StrEnum):
    """Which checkpoint is the result."""

    AUTO = "Auto"
    BEST = "Best"
    LAST = "Last"


class Checkpoint(ApiModel):
    """Full resumable state, verified before it exists; also on SIGTERM and at the end."""

    every_seconds: int = Field(default=1800, ge=0)
    """everySeconds between checkpoints; 0 = off."""
    every_steps: int = Field(default=0, ge=0)
    """everySteps between checkpoints; 0 = off."""
    keep_last: int = Field(default=2, ge=1, le=100)
    """keepLast newest verified ones; nothing is removed before its successor is verified."""
    keep_best: int = Field(default=1, ge=0, le=100)
    """keepBest by validation loss."""
    result: ResultChoice = ResultChoice.AUTO
    """result: Auto = Best if validation loss was evaluated, else Last."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.result != 'Best' || self.keepBest > 0",
            "result Best needs keepBest of at least 1",
        ),
    )


class Tracking(ApiModel):
    """How densely progress is recorded."""

    log_every_steps: int = Field(default=10, ge=1, le=100000)
    """logEverySteps between points of the history."""
