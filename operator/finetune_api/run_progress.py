"""What a job pod answers on its progress port; the operator parses it as untrusted input."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from finetune_api.meta import ConfigModel
from finetune_api.reported_values import LARGEST_INTEGER, MetricName, Word
from finetune_api.run_outcome import Best, CheckpointRef

MAX_BYTES = 262144
"""A longer answer is refused unread."""


SILENT_STEPS = 10
"""A rank may be silent for so many of its median steps before it is taken to hang."""


class Progress(ConfigModel):
    """A moment of a run. Times are durations in seconds: no clock of another machine is used."""

    version: Literal[1] = 1
    run: str = Field(max_length=128)
    """run is `<uid>/<attempt>`; an answer of another run is ignored."""
    phase: Word
    """phase is the stage: Fetching, Validating, Writing, Preparing, Starting, Training,
    Evaluating, Saving, Merging, Verifying, Pushing."""
    percentage: int = Field(default=0, ge=0, le=100)
    ranks_joined: int = Field(default=0, ge=0)
    ranks_expected: int = Field(default=0, ge=0)
    step: int = Field(default=0, ge=0)
    total_steps: int = Field(default=0, ge=0)
    first_step: int | None = Field(default=None, ge=0)
    """firstStep that this attempt went on from; absent until it takes steps."""
    step_seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """stepSeconds this attempt spent in the steps that count, those taken back left out."""
    epoch: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    seconds_since_step: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    median_step_seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    silent_seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """silentSeconds since the pod's most silent rank showed a sign of life: a step, a batch of an
    evaluation, a part of a save."""
    eta_seconds: float | None = Field(default=None, ge=0, le=LARGEST_INTEGER)
    train_tokens: int = Field(default=0, ge=0)
    tokens_per_second: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    supervised_tokens_per_second: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    phase_seconds: dict[str, float] = Field(default_factory=dict, max_length=8)
    """phaseSeconds are mean seconds of a step by data, forward, backward, optimizer."""
    mfu: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """mfu is the model's operations / the datasheet's peak, on GPUs whose peak is known."""
    fill: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """fill is tokens / (micro-batches x their budget)."""
    imbalance: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """imbalance is the heaviest rank's operations / the mean rank's - 1."""
    padding: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    """padding is its share of a micro-batch's rows; 0 when samples lie end to end."""
    memory_planned_bytes: int | None = Field(default=None, ge=0)
    """memoryPlannedBytes are what the plan expects one rank to allocate at the peak."""
    memory_peak_bytes: int | None = Field(default=None, ge=0)
    """memoryPeakBytes were in use at most, on the longest samples: of a GPU, or of a process."""
    skipped_updates: int = Field(default=0, ge=0)
    """skippedUpdates were not finite and so not applied."""
    rollbacks: int = Field(default=0, ge=0)
    """rollbacks to a checkpoint before an update that was not finite."""
    loss: float | None = Field(default=None, allow_inf_nan=False)
    router_loss: float | None = Field(default=None, allow_inf_nan=False)
    """routerLoss balances routed experts; before its coefficient, and not part of loss."""
    learning_rate: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    gradient_norm: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    metrics: dict[MetricName, float] = Field(default_factory=dict, max_length=32)
    """metrics of the last evaluation by reported name."""
    metrics_step: int = Field(default=0, ge=0)
    metrics_rows: int = Field(default=0, ge=0)
    best: Best | None = None
    best_checkpoint: CheckpointRef | None = None
    checkpoint: CheckpointRef | None = None
    """checkpoint is the newest verified one."""
    save_seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """saveSeconds is the slowest save so far."""
    checkpoint_age_seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """checkpointAgeSeconds since the newest checkpoint was cut."""
    quarantined: int = Field(default=0, ge=0)
    """quarantined counts damaged checkpoints set aside."""
