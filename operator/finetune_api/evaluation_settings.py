"""How a run is judged, how text is generated, what is kept, how densely it is recorded."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from finetune_api.meta import ApiModel, Rule


class Metric(StrEnum):
    """A number of an evaluation."""

    LOSS = "Loss"
    PERPLEXITY = "Perplexity"
    SAMPLE_PERPLEXITY = "SamplePerplexity"
    TOKEN_ACCURACY = "TokenAccuracy"  # noqa: S105 - the name of a metric


class Evaluation(ApiModel):
    """Metrics on the validation split; always once more at the end, on a test split too."""

    metrics: list[Metric] | None = Field(default=None, min_length=1, max_length=32)
    """metrics reported; absent = Loss and Perplexity."""
    objective: Metric = Metric.LOSS
    """objective is the one metric behind best and early stop."""
    every_epochs: float = Field(default=1.0, ge=0, le=1000)
    """everyEpochs: a fraction up to 1 of an epoch, or whole epochs; 0 = off."""
    every_steps: int = Field(default=0, ge=0)
    """everySteps are additional points every n steps; 0 = off."""
    at_start: bool = False
    """atStart is a baseline at step 0."""
    max_rows: int | None = Field(default=None, ge=1)
    """maxRows is a seeded subset; absent = all rows."""
    per_device_batch_size: int | None = Field(default=None, ge=1, le=4096)
    """perDeviceBatchSize is how many prompts a rank answers at once; absent = by memory."""
    early_stopping_patience: int = Field(default=0, ge=0, le=1000)
    """earlyStoppingPatience is points without improvement before training ends; 0 = off."""
    early_stopping_threshold: float = Field(default=0.0, ge=0)
    """earlyStoppingThreshold is the smallest change that counts."""
    generate_samples: int = Field(default=4, ge=0, le=64)
    """generateSamples validation prompts are answered before and after training, for the report."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.everyEpochs <= 1.0 || self.everyEpochs == double(int(self.everyEpochs))",
            "everyEpochs is a fraction up to 1 or a whole number",
        ),
        Rule(
            "self.objective == 'Loss' || (has(self.metrics) && self.objective in self.metrics)",
            "the objective must be one of evaluation.metrics",
        ),
        Rule(
            "self.earlyStoppingPatience == 0 || self.everyEpochs > 0.0 || self.everySteps > 0",
            "early stopping needs evaluation points; set everyEpochs or everySteps",
        ),
        Rule(
            "self.earlyStoppingThreshold == 0.0 || self.earlyStoppingPatience > 0",
            "earlyStoppingThreshold acts with earlyStoppingPatience only",
        ),
    )


class Generation(ApiModel):
    """How text is generated; rows stop one by one at any end id, stop text, length or time."""

    max_new_tokens: int = Field(default=128, ge=1, le=131072)
    """maxNewTokens of an answer."""
    min_new_tokens: int = Field(default=0, ge=0, le=131072)
    """minNewTokens before an answer may end."""
    max_time_seconds: int = Field(default=0, ge=0, le=86400)
    """maxTimeSeconds per answer; 0 = off."""
    do_sample: bool = False
    """doSample: sampling instead of greedy decoding; random numbers belong to the prompt, so batch
    and ranks change nothing."""
    temperature: float | None = Field(default=None, gt=0, le=10)
    """temperature with sampling only; absent = 1."""
    top_k: int | None = Field(default=None, ge=1, le=100000)
    """topK with sampling only."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """topP with sampling only."""
    min_p: float | None = Field(default=None, gt=0, le=1)
    """minP with sampling only."""
    num_beams: int = Field(default=1, ge=1, le=4)
    """numBeams of beam search; 1 = none."""
    repetition_penalty: float = Field(default=1.0, ge=1, le=10)
    """repetitionPenalty on repeated tokens."""
    stop_strings: list[Annotated[str, StringConstraints(min_length=1, max_length=256)]] | None = (
        Field(default=None, min_length=1, max_length=32)
    )
    """stopStrings are further texts that end an answer; the template's own end always does."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.doSample || (!has(self.temperature) && !has(self.topK) && !has(self.topP) "
            "&& !has(self.minP))",
            "greedy decoding has no temperature, topK, topP or minP; set doSample or remove them",
        ),
        Rule("self.minNewTokens <= self.maxNewTokens", "minNewTokens exceeds maxNewTokens"),
    )


class CheckpointPolicy(StrEnum):
    """What is written during a run."""

    RESUMABLE = "Resumable"
    NONE = "None"


class ResultChoice(StrEnum):
    """Which checkpoint is the result."""

    AUTO = "Auto"
    BEST = "Best"
    LAST = "Last"


class Checkpoint(ApiModel):
    """Full resumable state, verified before it exists; also on SIGTERM and at the end."""

    policy: CheckpointPolicy = CheckpointPolicy.RESUMABLE
    """policy: None writes the final result only; an interrupted run starts again."""
    every_seconds: int = Field(default=1800, ge=0)
    """everySeconds between checkpoints; 0 = off."""
    every_steps: int = Field(default=0, ge=0)
    """everySteps between checkpoints; 0 = off."""
    keep_last: int = Field(default=2, ge=1, le=100)
    """keepLast newest verified ones; nothing is removed before its successor is verified."""
    keep_best: int = Field(default=1, ge=0, le=100)
    """keepBest by evaluation.objective."""
    keep_evaluated: bool = False
    """keepEvaluated keeps the checkpoint of every evaluation point."""
    result: ResultChoice = ResultChoice.AUTO
    """result: Auto = Best if the objective was evaluated, else Last."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.result != 'Best' || self.keepBest > 0",
            "result Best needs keepBest of at least 1",
        ),
        Rule(
            "self.policy != 'None' || (self.result != 'Best' && self.everySteps == 0 "
            "&& !self.keepEvaluated)",
            "policy None writes the last weights only; remove result Best, everySteps and "
            "keepEvaluated",
        ),
    )


class Tracking(ApiModel):
    """How densely progress is recorded."""

    log_every_steps: int = Field(default=10, ge=1, le=100000)
    """logEverySteps between points of the history."""
