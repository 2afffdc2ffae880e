"""Starting weights, and what is trained of them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from finetune_api.meta import ApiModel, DnsName, Repository, Rule
from finetune_api.storage import S3, VolumeClaim


class Dtype(StrEnum):
    """Type of numbers."""

    AUTO = "Auto"
    BFLOAT16 = "BFloat16"
    FLOAT16 = "Float16"
    FLOAT32 = "Float32"


class CheckpointChoice(StrEnum):
    """Which checkpoint of another experiment."""

    RESULT = "Result"
    BEST = "Best"
    LAST = "Last"
    STEP = "Step"


class FromExperiment(ApiModel):
    """The base model and the trained weights of another experiment."""

    name: DnsName
    """name is an experiment of this namespace; it is waited for."""
    checkpoint: CheckpointChoice = CheckpointChoice.RESULT
    """checkpoint of that experiment."""
    step: int | None = Field(default=None, ge=0)
    """step of the checkpoint, for Step only."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.step) == (self.checkpoint == 'Step')",
            "checkpoint Step needs step, the others take none",
        ),
    )


class AdapterHandover(StrEnum):
    """What happens to an adapter found in the starting weights."""

    CONTINUE = "Continue"
    MERGE = "Merge"


class InitialWeights(StrEnum):
    """Where the first weights come from."""

    PRETRAINED = "Pretrained"
    RANDOM = "Random"


class Quantization(StrEnum):
    """How a frozen base is held."""

    NONE = "None"
    NF4 = "NF4"
    FP4 = "FP4"
    INT8 = "Int8"


class Attention(StrEnum):
    """Implementation of attention."""

    AUTO = "Auto"
    EAGER = "Eager"
    SDPA = "SDPA"
    FLASH_ATTENTION_2 = "FlashAttention2"
    FLASH_ATTENTION_3 = "FlashAttention3"
    VARLEN = "Varlen"


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
    from_experiment: FromExperiment | None = None
    """fromExperiment is the result of another experiment: its base with its trained weights."""
    adapter_handover: AdapterHandover = AdapterHandover.CONTINUE
    """adapterHandover: Continue trains an adapter found in the starting weights further (type,
    rank and targets must agree), Merge adds it to the base in 32 bit first."""
    strict: bool = True
    """strict: every tensor of a continued adapter must match; false takes over what fits and logs
    each difference."""
    initial_weights: InitialWeights = InitialWeights.PRETRAINED
    """initialWeights: Random draws them from the seed; only the configuration is used."""
    dtype: Dtype = Dtype.AUTO
    """dtype in which frozen, unquantised weights are held; Auto = training.computeDtype."""
    quantization: Quantization | None = None
    """quantization of the frozen base, which then trains through an adapter; absent = by preset."""
    double_quantization: bool = True
    """doubleQuantization quantises the constants of NF4 and FP4 too."""
    int8_threshold: float | None = Field(default=None, ge=0, le=100)
    """int8Threshold of outliers, for Int8 only; absent = 6. Training on CPU does without it."""
    attention: Attention = Attention.AUTO
    """attention implementation; an explicit one that is unavailable is refused."""
    intermediate_dropout: float | None = Field(default=None, ge=0, le=0.9)
    """intermediateDropout sets every dropout of the model's configuration; refused without one."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "[has(self.name),has(self.volumeClaim),has(self.s3),has(self.fromExperiment)]"
            ".filter(x, x).size() == 1",
            "set exactly one of name, volumeClaim, s3, fromExperiment",
        ),
        Rule("!has(self.revision) || has(self.name)", "revision belongs to name"),
        Rule(
            "!has(self.int8Threshold) || (has(self.quantization) && self.quantization == 'Int8')",
            "int8Threshold acts with quantization Int8 only",
        ),
        Rule(
            "self.initialWeights == 'Pretrained' || ((!has(self.quantization) || "
            "self.quantization == 'None') && !has(self.fromExperiment))",
            "random weights cannot be quantised or taken from an experiment",
        ),
    )


class AdapterType(StrEnum):
    """What is trained."""

    LORA = "LoRA"
    DORA = "DoRA"
    NONE = "None"


Module = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class Adapter(ApiModel):
    """Low-rank training; checkpoints and exports hold what is trained, never the frozen base."""

    type: AdapterType = AdapterType.LORA
    """type selects the adapter; None is full fine-tuning."""
    rank: int | None = Field(default=None, ge=1, le=1024)
    """rank of the update; absent = by preset."""
    alpha: float | None = Field(default=None, gt=0, le=4096)
    """alpha scales the update by alpha / rank; absent = 2 x rank."""
    rslora: bool = False
    """rslora scales the update by alpha / sqrt(rank)."""
    dropout: float = Field(default=0.0, ge=0, le=0.9)
    """dropout on the adapter's input; its mask is drawn again in backward, not stored."""
    target_modules: list[Module] | None = Field(default=None, min_length=1, max_length=128)
    """targetModules are name suffixes or patterns; absent = all linear layers of the blocks. One
    without a match is refused."""
    exclude_modules: list[Module] | None = Field(default=None, min_length=1, max_length=128)
    """excludeModules are name suffixes or patterns left out; one without a match is refused."""
    layers: list[Annotated[int, Field(ge=0, le=1023)]] | None = Field(
        default=None, min_length=1, max_length=512
    )
    """layers are the block numbers that get an adapter; absent = all."""
    modules_to_save: list[Module] | None = Field(default=None, min_length=1, max_length=64)
    """modulesToSave are modules trained in full besides the adapter, always saved."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.type != 'None' || (!has(self.rank) && !has(self.alpha) && !self.rslora "
            "&& self.dropout == 0.0 && !has(self.targetModules) && !has(self.excludeModules) "
            "&& !has(self.layers) && !has(self.modulesToSave))",
            "adapter settings do not act in full fine-tuning; remove them or set type LoRA",
        ),
    )
