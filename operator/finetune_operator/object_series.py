"""Tells Prometheus what the operator knows of each object; series of gone objects vanish."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta

from prometheus_client import Gauge

from finetune_api.conditions import COMPLETE, FAILED, READY
from finetune_api.names import EXPERIMENT
from finetune_api.run_outcome import FailureClass
from finetune_operator import metrics
from finetune_operator.observed import Key, Manifest

ON_NODES = frozenset({"Starting", "Training", "Evaluating"})
USES = ("useful", "lost", "startup", "evaluation")
"""Uses of GPU time that a status names."""
RETENTION = timedelta(minutes=10)
"""The last values of a run that ended are shown for so long; then its series vanish."""


class ObjectSeries:
    """Keeps the metrics of objects in step with their statuses.

    A run that was over before this process saw it has no series of its own, only a share in the
    count: thousands of finished runs cost nothing.
    """

    def __init__(self) -> None:
        self._shown: dict[Key, tuple[str, frozenset[str]]] = {}
        """_shown are the reason and the metrics told of each: looking for the old series among
        those of all runs would make every step dearer with their number."""
        self._ended: dict[Key, datetime] = {}
        self._reasons: dict[Key, str] = {}
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._restarts: dict[Key, Manifest] = {}
        self._lost: dict[Key, int] = {}
        self._checkpoints: dict[Key, _Checkpoint] = {}

    def seen(self, key: Key, status: Manifest, now: datetime) -> float | None:
        """Publish a status; return after how many seconds it wants to be shown again."""
        conditions = {c["type"]: c for c in status.get("conditions") or ()}
        reason = conditions.get(READY, {}).get("reason", "Unknown")
        self._count(key, reason)
        if key.kind != EXPERIMENT:
            return None
        if not any(conditions.get(kind, {}).get("status") == "True" for kind in (COMPLETE, FAILED)):
            self._ended.pop(key, None)
            self._show(key, reason, status, now)
            return None
        return self._retire(key, reason, status, now)

    def _retire(self, key: Key, reason: str, status: Manifest, now: datetime) -> float | None:
        if key not in self._shown:
            return None
        if key not in self._ended:
            _count_end(key, status)
        left = self._ended.setdefault(key, now) + RETENTION - now
        if left <= timedelta():
            self._hide(key)
            return None
        self._show(key, reason, status, now)
        return left.total_seconds()

    def forget(self, key: Key) -> None:
        """Drop the series of a deleted object."""
        reason = self._reasons.pop(key, None)
        if reason is None:
            return
        self._add((key.kind, key.namespace, reason), -1)
        self._hide(key)

    def _hide(self, key: Key) -> None:
        if key not in self._shown:
            return
        labels = {"namespace": key.namespace, "experiment": key.name}
        for family in metrics.EXPERIMENT_FAMILIES:
            family.remove_by_labels(labels)
        del self._shown[key]
        self._ended.pop(key, None)
        self._restarts.pop(key, None)
        self._lost.pop(key, None)
        self._checkpoints.pop(key, None)

    def _count(self, key: Key, reason: str) -> None:
        before = self._reasons.get(key)
        if before == reason:
            return
        if before is not None:
            self._add((key.kind, key.namespace, before), -1)
        self._add((key.kind, key.namespace, reason), 1)
        self._reasons[key] = reason

    def _add(self, labels: tuple[str, str, str], change: int) -> None:
        self._counts[labels] += change
        if self._counts[labels]:
            metrics.OBJECTS.labels(*labels).set(self._counts[labels])
        else:
            del self._counts[labels]
            metrics.OBJECTS.remove(*labels)

    def _show(self, key: Key, reason: str, status: Manifest, now: datetime) -> None:
        names = (key.namespace, key.name)
        if key not in self._shown:
            for failure in FailureClass:  # a count that begins at 1 has no increase
                metrics.FINISHED.labels(key.namespace, "Failed", failure.value)
        measured = {one["name"]: one["value"] for one in status.get("metrics") or ()}
        before, known = self._shown.get(key, (reason, frozenset()))
        self._shown[key] = (reason, frozenset(measured))
        if before != reason:
            metrics.EXPERIMENT_STATUS.remove(*names, before)
        metrics.EXPERIMENT_STATUS.labels(*names, reason).set(1)
        metrics.EXPERIMENT_ATTEMPT.labels(*names).set(
            (status.get("attempt") or {}).get("number", 0)
        )
        progress = status.get("progress") or {}
        if progress:
            metrics.EXPERIMENT_PROGRESS_RATIO.labels(*names).set(
                progress.get("percentage", 0) / 100
            )
            metrics.EXPERIMENT_STEP.labels(*names).set(progress.get("step", 0))
            _set(metrics.EXPERIMENT_LOSS, names, progress.get("loss"))
            _set(metrics.EXPERIMENT_ETA_SECONDS, names, progress.get("estimatedRemainingSeconds"))
        for gone in known - measured.keys():
            metrics.EXPERIMENT_EVALUATION.remove(*names, gone)
        for name, value in measured.items():
            metrics.EXPERIMENT_EVALUATION.labels(*names, name).set(value)
        latest = (status.get("checkpoints") or {}).get("latest") or {}
        _set(metrics.EXPERIMENT_CHECKPOINT_STEP, names, latest.get("step"))
        self._count_restarts(key, status.get("restarts") or {})
        self._time_checkpoints(key, status, now)
        self._tell_efficiency(key, status)
        _show_waiting(names, reason, status)
        _show_cost(names, status.get("cost") or {})

    def _time_checkpoints(self, key: Key, status: Manifest, now: datetime) -> None:
        """Tell when the newest checkpoint came, and how far apart they are in one attempt."""
        step = ((status.get("checkpoints") or {}).get("latest") or {}).get("step")
        attempt = (status.get("attempt") or {}).get("number", 0)
        known = self._checkpoints.get(key)
        if step is None or (known is not None and known.step == step):
            return
        names = (key.namespace, key.name)
        if known is not None and known.attempt == attempt:
            apart = max(known.longest, (now - known.time).total_seconds())
            metrics.EXPERIMENT_CHECKPOINT_INTERVAL.labels(*names).set(apart)
        else:
            apart = 0.0
        self._checkpoints[key] = _Checkpoint(step, attempt, now, apart)
        metrics.EXPERIMENT_CHECKPOINT_TIMESTAMP.labels(*names).set(now.timestamp())

    def _tell_efficiency(self, key: Key, status: Manifest) -> None:
        names, found = (key.namespace, key.name), status.get("efficiency") or {}
        _set(metrics.EXPERIMENT_EFFECTIVE_TIME, names, found.get("trainingRatio"))
        _set(metrics.EXPERIMENT_RECOVERY_SECONDS, names, found.get("recoverySeconds"))
        lost = found.get("lostSteps", 0)
        counter = metrics.EXPERIMENT_LOST_STEPS.labels(*names)
        counter.inc(max(0, lost - self._lost.get(key, lost)))
        self._lost[key] = lost

    def _count_restarts(self, key: Key, restarts: Manifest) -> None:
        """Count what was added since the last look; the first look only fixes where to begin."""
        before = self._restarts.get(key, restarts)
        self._restarts[key] = restarts
        for name, spent in restarts.items():
            counter = metrics.EXPERIMENT_RESTARTS.labels(key.namespace, key.name, name)
            counter.inc(max(0, spent - before.get(name, 0)))


@dataclass(frozen=True)
class _Checkpoint:
    """The newest checkpoint, who wrote it, when it became known, and the longest gap so far."""

    step: int
    attempt: int
    time: datetime
    longest: float


def _show_waiting(names: tuple[str, str], reason: str, status: Manifest) -> None:
    """Tell what it waits for and holds now, and when it last moved."""
    attempt, progress = status.get("attempt") or {}, status.get("progress") or {}
    held = attempt.get("gpus") or 0
    metrics.EXPERIMENT_GPUS.labels(*names).set(held if reason in ON_NODES else 0)
    _set(metrics.EXPERIMENT_LAST_PROGRESS, names, _timestamp(progress.get("updateTime")))
    if reason != "Queued":
        metrics.EXPERIMENT_QUEUED.remove(*names)
    else:
        _set(metrics.EXPERIMENT_QUEUED, names, _timestamp(attempt.get("createdTime")))
    claim = _claim((status.get("preparation") or {}).get("uri") or "")
    if claim:
        metrics.VOLUME_IN_USE.labels(*names, claim).set(1)


def _show_cost(names: tuple[str, str], cost: Manifest) -> None:
    """Tell what GPU time was for; what has no name of its own is `other`."""
    uses = {use: cost.get(f"{use}GpuSeconds", 0) for use in USES}
    uses["other"] = max(0, cost.get("gpuSeconds", 0) - sum(uses.values()))
    for use, seconds in uses.items():
        _tell(metrics.EXPERIMENT_GPU_SECONDS, (*names, use), seconds if cost else None)
    _tell(metrics.EXPERIMENT_FORECAST, names, cost.get("forecastGpuSeconds"))


def _count_end(key: Key, status: Manifest) -> None:
    """Count an end."""
    conditions = {c["type"]: c.get("status") for c in status.get("conditions") or ()}
    last: Manifest = next(iter(status.get("history") or ()), {})
    failed = conditions.get(FAILED) == "True"
    outcome, failure_class = ("Failed", last.get("class", "")) if failed else ("Completed", "")
    metrics.FINISHED.labels(key.namespace, outcome, failure_class).inc()


def _timestamp(text: str | None) -> float | None:
    return datetime.fromisoformat(text).timestamp() if text else None


def _claim(uri: str) -> str:
    """Return the claim that a URI of storage names, or an empty text."""
    return uri.removeprefix("pvc://").partition("/")[0] if uri.startswith("pvc://") else ""


def _set(gauge: Gauge, labels: tuple[str, ...], value: float | None) -> None:
    if value is not None:
        gauge.labels(*labels).set(value)


def _tell(gauge: Gauge, labels: tuple[str, ...], value: float | None) -> None:
    """Set a series, or let it vanish."""
    if value is None:
        gauge.remove(*labels)
    _set(gauge, labels, value)
