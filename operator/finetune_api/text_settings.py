"""Records to tokens: tokenizer, prompt, the data of a run and its augmentation."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from finetune_api.meta import ApiModel, ConfigMapRef, Digest, DnsName, Rule, Text

Options = Annotated[
    dict[
        Annotated[str, StringConstraints(min_length=1, max_length=64)],
        Annotated[str, StringConstraints(max_length=1024)],
    ],
    Field(max_length=16),
]
"""Arguments by name. A value is JSON ("true", "3", "[1]"); text that is no JSON stands for itself.
Strings, because a CRD has no field of any type that CEL can compare."""


class Overflow(StrEnum):
    """What happens to samples above the length limit."""

    AUTO = "Auto"
    TRUNCATE = "Truncate"
    DROP = "Drop"
    FAIL = "Fail"
    WINDOW = "Window"


class Tokenizer(ApiModel):
    """Text to tokens."""

    name: str | None = Field(default=None, min_length=1, max_length=200)
    """name is a tokenizer's repository; absent = the model's own."""
    revision: str | None = Field(default=None, min_length=1, max_length=200)
    """revision of that repository; absent = main."""
    max_length: int | None = Field(default=None, ge=16, le=1048576)
    """maxLength is the longest sample in tokens; absent = maxLengthQuantile of the data."""
    max_length_quantile: float = Field(default=0.99, gt=0, le=1)
    """maxLengthQuantile for the automatic limit, rounded up to 64, at most the model's context."""
    max_prompt_length: int | None = Field(default=None, ge=8, le=1048576)
    """maxPromptLength is an additional limit of what stands before the answer."""
    max_answer_length: int | None = Field(default=None, ge=8, le=1048576)
    """maxAnswerLength is an additional limit of an answer."""
    overflow: Overflow = Overflow.AUTO
    """overflow: Truncate cuts oldest exchanges first, the answer's end last; Drop; Fail; Window
    cuts documents into windows that overlap by one token. Auto = Window for Pretraining, else
    Truncate."""
    max_truncated_share: float = Field(default=1.0, ge=0, le=1)
    """maxTruncatedShare: more truncated samples fail with TruncationLimit."""
    additional_tokens: (
        list[Annotated[str, StringConstraints(min_length=1, max_length=256)]] | None
    ) = Field(default=None, min_length=1, max_length=1024)
    """additionalTokens are new tokens; their rows are trained and saved, with an adapter too."""
    add_marker_tokens: bool = False
    """addMarkerTokens makes the three markers tokens; template Markers only."""
    options: Options | None = None
    """options are arguments of the tokenizer's loader; values are JSON, other text is itself."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("!has(self.revision) || has(self.name)", "revision belongs to name"),
    )


class Template(StrEnum):
    """How records become text."""

    AUTO = "Auto"
    MODEL = "Model"
    CHATML = "ChatML"
    ZEPHYR = "Zephyr"
    MARKERS = "Markers"
    RAW = "Raw"
    CUSTOM = "Custom"


class Markers(ApiModel):
    """Marker strings, taken literally."""

    system: str = Field(default="<|system|>", max_length=256)
    """system stands before the system text."""
    prompt: str = Field(default="<|prompt|>", max_length=256)
    """prompt stands before user text."""
    answer: str = Field(default="<|answer|>", max_length=256)
    """answer stands between user text and answer."""


class EndTokenAfter(StrEnum):
    """After which part an end token is placed."""

    SYSTEM = "System"
    PROMPT = "Prompt"
    ANSWER = "Answer"


class BeginToken(StrEnum):
    """Whether a sample begins with the begin-of-text token."""

    AUTO = "Auto"
    ALWAYS = "Always"
    NEVER = "Never"


class TrainOnRole(StrEnum):
    """A role whose tokens are supervised."""

    SYSTEM = "System"
    USER = "User"
    ASSISTANT = "Assistant"
    TOOL = "Tool"


class TrainOnTurns(StrEnum):
    """Which turns of the supervised roles are supervised."""

    ALL = "All"
    LAST = "Last"


class ChainSamples(StrEnum):
    """Which samples linked rows give."""

    LEAF = "Leaf"
    LEAF_REPEATED = "LeafRepeated"
    EVERY_ROW = "EveryRow"


class Prompt(ApiModel):
    """Records to text; one function renders for training, evaluation and export."""

    template: Template = Template.AUTO
    """template: Model is the tokenizer's chat template, Markers the three marker strings, Raw is
    prompt, answer, end token, Custom is templateRef; Auto = Model where the tokenizer has a chat
    template, else Raw; Raw for Pretraining."""
    template_ref: ConfigMapRef | None = None
    """templateRef holds a chat template, rendered in a sandbox; template Custom only."""
    template_options: Options | None = None
    """templateOptions are arguments of the template, such as enable_thinking; values are JSON,
    other text is itself."""
    markers: Markers | None = None
    """markers of template Markers."""
    end_token_after: list[EndTokenAfter] | None = Field(default=None, max_length=3)
    """endTokenAfter is where templates Markers and Raw place the end token, as an id; absent =
    all three with Markers, Answer alone with Raw."""
    begin_token: BeginToken = BeginToken.AUTO
    """beginToken: Auto = as the tokenizer is configured; never doubled."""
    system: Text | None = None
    """system is the system text for records without one."""
    train_on_roles: list[TrainOnRole] = Field(
        default=[TrainOnRole.ASSISTANT], min_length=1, max_length=4
    )
    """trainOnRoles are the roles whose tokens are supervised; all four = everything but the begin
    token."""
    train_on_turns: TrainOnTurns = TrainOnTurns.ALL
    """trainOnTurns: All supervises every turn of these roles, Last only the final one."""
    chain_samples: ChainSamples = ChainSamples.LEAF
    """chainSamples of linked rows: Leaf is one sample per leaf, an answer shared by leaves is
    supervised once; LeafRepeated in each; EveryRow is one sample per row with its ancestors, only
    its own answer supervised."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.templateRef) == (self.template == 'Custom')",
            "template Custom needs templateRef, the others take none",
        ),
        Rule(
            "!has(self.endTokenAfter) || self.template in ['Auto','Markers','Raw']",
            "a chat template places its own end tokens; endTokenAfter acts with Markers and Raw",
        ),
        Rule(
            "!has(self.markers) || self.template == 'Markers'",
            "markers act with template Markers only",
        ),
    )


class Split(StrEnum):
    """A part of a Dataset."""

    TRAIN = "Train"
    VALIDATION = "Validation"
    TEST = "Test"


class ExperimentDataset(ApiModel):
    """Data of the run."""

    name: DnsName
    """name is a Dataset of this namespace; its digest is pinned when the run is prepared."""
    digest: Digest | None = None
    """digest refuses another snapshot (DigestMismatch)."""
    validation_name: DnsName | None = None
    """validationName is a Dataset whose records, of all splits, serve as validation instead."""
    test_name: DnsName | None = None
    """testName is a Dataset whose records, of all splits, serve as test instead."""
    evaluate_split: Split | None = None
    """evaluateSplit in mode Evaluate; absent = Validation."""
    sample_fraction: float | None = Field(default=None, gt=0, le=1)
    """sampleFraction is a seeded share of whole conversations; a smaller sample is part of a
    larger one; absent = by preset."""
    sample_rows: int | None = Field(default=None, ge=1)
    """sampleRows is a count instead of a share."""
    sample_splits: list[Split] = Field(
        default=[Split.TRAIN, Split.VALIDATION], min_length=1, max_length=3
    )
    """sampleSplits are the splits that are sampled."""
    include_validation: bool = False
    """includeValidation trains on validation records too; metrics are marked as seen and decide
    neither best nor early stop."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!(has(self.sampleFraction) && has(self.sampleRows))",
            "set sampleFraction or sampleRows",
        ),
    )


class Augmentation(ApiModel):
    """Changes to training samples, drawn anew each epoch; a root's system text always stays."""

    skip_parent_probability: float = Field(default=0.0, ge=0, le=1)
    """skipParentProbability: each exchange before the last is left out."""
    random_parent_probability: float = Field(default=0.0, ge=0, le=1)
    """randomParentProbability: the first exchange of another record becomes the first exchange,
    as context only."""
    token_mask_probability: float = Field(default=0.0, ge=0, le=0.9)
    """tokenMaskProbability: content tokens become the mask token and lose their label; markers
    and special tokens never."""
    neftune_noise_alpha: float = Field(default=0.0, ge=0, le=100)
    """neftuneNoiseAlpha: uniform noise of +- alpha / sqrt(length x hidden size) on embeddings."""
