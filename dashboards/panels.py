"""The Grafana dashboard of one experiment as data."""

from __future__ import annotations

from typing import Any

from dashboards import queries as q
from dashboards.board_layout import Panel, board, variable

from finetune_operator import metrics

STATE = (
    Panel(
        "State", "Reason of the Ready condition: what the experiment does now.", "string",
        (("{{status}}", q.STATUS),), kind="state", width=6, height=4,
    ),
    Panel(
        "Progress", "Share of all optimizer steps that is done.", "percentunit",
        (("progress", q.PROGRESS),), kind="gauge", width=4, height=4,
    ),
    Panel(
        "Remaining", "Expected rest of the run at the present speed.", "s",
        (("remaining", q.REMAINING),), kind="stat", width=4, height=4,
    ),
    Panel(
        "Attempt", "Number of the present attempt; every restart of all ranks is a new one.",
        "none", (("attempt", q.ATTEMPT),), kind="stat", width=3, height=4,
    ),
    Panel(
        "Restarts", "Restarts of all ranks since the operator started.", "none",
        (("restarts", q.RESTARTS),), kind="stat", width=3, height=4,
    ),
    Panel(
        "Last evaluation", "Newest value of every validation metric the operator recorded.",
        "none", (("{{metric}}", q.LAST_EVALUATION),), kind="stat", width=4, height=4,
    ),
)  # fmt: skip
LEARNING = (
    Panel(
        "Loss", "Training loss per step over all ranks, and loss on the validation split, in nats "
        "per supervised token. Validation rising while training falls means overfitting.",
        "none", (("training, attempt {{attempt}}", q.LOSS), ("validation", q.VALIDATION_LOSS)),
        width=12,
    ),
    Panel(
        "Validation perplexity", "Exponential of the validation loss over the whole split; lower "
        "is better.", "none", (("perplexity", q.PERPLEXITY),), width=12, logarithmic=True,
    ),
    Panel(
        "Learning rate", "Rate of the last step: warm-up, then the schedule.", "sci",
        (("rate", q.LEARNING_RATE),),
    ),
    Panel(
        "Gradient norm", "L2 norm over all trainable gradients before clipping. Spikes come before "
        "divergence: lower the rate or clip.", "none", (("norm", q.GRADIENT_NORM),),
        logarithmic=True,
    ),
    Panel(
        "Steps", "Optimizer steps done, and planned in all.", "none",
        (("done", q.STEP), ("planned", q.STEPS)),
    ),
)  # fmt: skip
SPEED = (
    Panel(
        "Tokens per second", "Throughput over all ranks: every token, and the supervised ones "
        "that count in the loss.", "cps",
        (("tokens", q.TOKENS), ("supervised", q.SUPERVISED_TOKENS)),
    ),
    Panel(
        "Step duration", "Median and 95th percentile of recent steps.", "s",
        (("median", q.MEDIAN_STEP), ("95 %", q.SLOW_STEP)),
    ),
    Panel(
        "Phases of a step", "Mean seconds of a step by phase, on the device. Data beyond a few "
        "percent means that the GPU waits for the host.", "s", (("{{phase}}", q.PHASES),),
    ),
    Panel(
        "Use of the hardware", "Model FLOPs against the datasheet's peak (GPUs only), tokens "
        "against the room in micro-batches, padding, and how much heavier the heaviest rank is.",
        "percentunit",
        (
            ("MFU", q.MFU), ("fill", q.FILL), ("padding", q.PADDING), ("imbalance", q.IMBALANCE),
        ),
        width=12,
    ),
    Panel(
        "Memory", "Memory of rank 0 by kind; the limit of the pod ends the run when it is "
        "reached.", "bytes", (("{{pod}} {{kind}}", q.MEMORY),), width=12,
    ),
)  # fmt: skip
SAFETY = (
    Panel(
        "Checkpoints", "Step of the newest verified checkpoint, as the trainer and as the operator "
        "know it. A restart goes on from there.", "none",
        (("trainer", q.CHECKPOINT_STEP), ("operator", q.KNOWN_CHECKPOINT)),
    ),
    Panel(
        "Steps since the last checkpoint", "Work that a kill would lose now. If it only grows, "
        "checkpoints do not reach the storage.", "none", (("steps", q.STEPS_AT_RISK),),
    ),
    Panel(
        "Uploads", "Repeated uploads and postponed checkpoints: the storage is slow or away.",
        "none", (("repeated uploads", q.UPLOAD_RETRIES), ("postponed checkpoints", q.POSTPONED)),
    ),
    Panel(
        "Age and stall of checkpoints", "Seconds since the newest checkpoint was complete, and how "
        "long training stood still for one.", "s",
        (("age", q.CHECKPOINT_AGE), ("stall, 95 %", q.STALL)), width=12,
    ),
    Panel(
        "Updates that were not finite", "Updates left out, and returns to the checkpoint before "
        "one. Lower the rate, clip, or look at the data.", "none",
        (("skipped", q.SKIPPED_UPDATES), ("rollbacks", q.ROLLBACKS)), width=12,
    ),
    Panel(
        "Restarts by class", "Restarts since the operator started, by what ended the attempt.",
        "none", (("{{class}}", q.RESTARTS_BY_CLASS),), width=12,
    ),
    Panel(
        "Useful time", "Share of the time on nodes that became part of the result: the rest went "
        "to starts, evaluations, checkpoints and steps taken twice.", "percentunit",
        (("useful", q.EFFECTIVE_TIME),),
    ),
    Panel(
        "Lost steps", "Steps that had to be taken again after restarts, since the operator "
        "started.", "none", (("lost", q.LOST_STEPS),),
    ),
    Panel(
        "Time to recover", "Typical time from a fault to the first step beyond it.", "s",
        (("recovery", q.RECOVERY),),
    ),
    Panel(
        "Age of the last sign of life", "Seconds since rank 0 last moved, in any phase. Growth "
        "means a hang.", "s", (("age", q.HEARTBEAT_AGE),), width=12,
    ),
)  # fmt: skip
COST = (
    Panel(
        "GPU time by use", "What the GPUs were held for: steps that count, steps lost, starts, "
        "evaluations, and the rest (checkpoints, waits).", "s",
        (("{{use}}", q.GPU_TIME),), width=12,
    ),
    Panel(
        "Forecast of GPU time", "What the whole run will take at its present speed, and what it "
        "has taken.", "s",
        (("whole run", q.FORECAST), ("so far", f"sum({q.GPU_TIME})")), width=12,
    ),
)  # fmt: skip
ROWS = (
    ("State", STATE),
    ("Learning", LEARNING),
    ("Speed and memory", SPEED),
    ("Checkpoints and restarts", SAFETY),
    ("Cost", COST),
)


def experiment_board() -> dict[str, Any]:
    """Return the dashboard of one experiment."""
    status = q.declared_name(metrics.EXPERIMENT_STATUS)
    return board(
        "experiment",
        "One experiment: what it learns, how fast, and how safe its work is.",
        ROWS,
        variable("namespace", f"label_values({status}, namespace)"),
        variable("experiment", f'label_values({status}{{namespace="$namespace"}}, experiment)'),
    )
