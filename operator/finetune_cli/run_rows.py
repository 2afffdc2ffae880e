"""What `finetune run` shows of each object: values read off its status and its progress."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from finetune_api.names import DATASET, EXPERIMENT, EXPORT
from finetune_api.run_progress import Progress
from finetune_operator.observed import Key, Manifest


class State(Enum):
    """Where an object stands, as far as waiting for it is concerned."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    BLOCKED = "blocked"
    SUSPENDED = "suspended"

    @property
    def settled(self) -> bool:
        """Tell whether nothing more will happen by itself."""
        return self not in (State.WAITING, State.RUNNING)


@dataclass(frozen=True)
class Row:
    """One object at one moment."""

    key: Key
    state: State
    status: str
    message: str
    percentage: int = 0
    step: int = 0
    total_steps: int = 0
    loss: float | None = None
    tokens_per_second: float | None = None
    eta_seconds: float | None = None

    @property
    def title(self) -> str:
        """Return `Kind/name`."""
        return f"{self.key.kind}/{self.key.name}"


def key_of(item: Manifest) -> Key:
    """Return the key of an object of ours."""
    return Key(item["kind"], item["metadata"]["namespace"], item["metadata"]["name"])


def conditions_of(item: Manifest) -> dict[str, Manifest]:
    """Return the conditions that judge the present spec, by type."""
    generation = item["metadata"]["generation"]
    return {
        condition["type"]: condition
        for condition in item.get("status", {}).get("conditions", [])
        if condition.get("observedGeneration", generation) == generation
    }


def reference_of(item: Manifest) -> Key | None:
    """Return what an object waits for."""
    spec, namespace = item["spec"], item["metadata"]["namespace"]
    if item["kind"] == EXPERIMENT:
        return Key(DATASET, namespace, spec["dataset"]["name"])
    if item["kind"] == EXPORT:
        return Key(EXPERIMENT, namespace, spec["source"]["experiment"]["name"])
    return None


def after(row: Row, awaited: State | None) -> Row:
    """Return the row of an object whose reference is in a state: one may wait in vain."""
    vain = {
        State.FAILED: State.BLOCKED, State.BLOCKED: State.BLOCKED,
        State.SUSPENDED: State.SUSPENDED,
    }  # fmt: skip
    if row.state is not State.WAITING or awaited not in vain:
        return row
    return _with(row, state=vain[awaited])


def row_of(item: Manifest, progress: Progress | None = None) -> Row:
    """Return what is shown of an object; `progress` is fresher than its status."""
    conditions = conditions_of(item)
    ready = conditions.get("Ready", {})
    row = Row(
        key=key_of(item),
        state=_state(conditions),
        status=ready.get("reason", "Accepted"),
        message=ready.get("message", "").removeprefix(f"{ready.get('reason')}: "),
    )
    if row.state is State.DONE:
        return _with(row, percentage=100, message=_result(item) or row.message)
    if row.state is State.SUSPENDED:
        return _with(row, message=_checkpoint(item))
    if row.state is not State.RUNNING or not ready:
        return row
    if progress is None:
        return _from_status(row, item.get("status", {}).get("progress") or {})
    return _with(
        row,
        status=progress.phase if row.status == "Training" else row.status,
        percentage=_percentage(progress),
        step=progress.step,
        total_steps=progress.total_steps,
        loss=progress.loss,
        tokens_per_second=progress.tokens_per_second,
        eta_seconds=progress.eta_seconds,
    )


def _state(conditions: dict[str, Manifest]) -> State:
    def holds(name: str) -> bool:
        return bool(conditions.get(name, {}).get("status") == "True")

    awaited = conditions.get("DependenciesReady", {})
    if holds("Failed") or holds("Stalled"):
        return State.FAILED
    if holds("Complete") or holds("Ready"):
        return State.DONE
    if holds("Suspended"):
        return State.SUSPENDED
    if awaited.get("reason") == "DependencyFailed":
        return State.BLOCKED
    return State.WAITING if awaited.get("status") == "False" else State.RUNNING


def _result(item: Manifest) -> str:
    status = item.get("status", {})
    if item["kind"] == DATASET and (records := status.get("records")):
        dropped = f", {records['dropped']:,} dropped" if records.get("dropped") else ""
        return (
            f"{records['total']:,} records: {records['train']:,} train, "
            f"{records['validation']:,} validation{dropped}"
        )
    if item["kind"] == EXPERIMENT and (perplexities := perplexity(item)):
        return "validation perplexity " + " → ".join(f"{p:,.1f}" for p in perplexities)
    if artifact := status.get("artifact"):
        return f"{artifact['files']} files, {artifact['size']}, verified"
    return ""


def _checkpoint(item: Manifest) -> str:
    checkpoints = item.get("status", {}).get("checkpoints") or {}
    latest = checkpoints.get("latest")
    return f"goes on from the checkpoint of step {latest['step']}" if latest else ""


def perplexity(item: Manifest) -> tuple[float, ...]:
    """Return the validation perplexity before and after training, as far as it was measured."""
    values = {
        metric["step"]: float(metric["value"])
        for metric in item.get("status", {}).get("metrics", [])
        if metric["name"] == "perplexity_corpus" and metric["split"].lower() == "validation"
    }
    result = item.get("status", {}).get("result") or {}
    after = values.get(result.get("step", -1), values[max(values)] if values else 0.0)
    return tuple(v for v in (values.get(0), after) if v) if values else ()


def _percentage(progress: Progress) -> int:
    if progress.total_steps:
        return 100 * progress.step // progress.total_steps
    return progress.percentage


def _from_status(row: Row, progress: Manifest) -> Row:
    return _with(
        row,
        percentage=progress.get("percentage", 0),
        step=progress.get("step", 0),
        total_steps=progress.get("totalSteps", 0),
        loss=progress.get("loss"),
        tokens_per_second=progress.get("tokensPerSecond"),
        eta_seconds=progress.get("estimatedRemainingSeconds"),
    )


def _with(row: Row, **changes: Any) -> Row:
    return Row(**{**row.__dict__, **changes})
