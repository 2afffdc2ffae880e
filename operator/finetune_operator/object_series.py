"""Tells Prometheus what the operator knows of each object; series of gone objects vanish."""

from __future__ import annotations

from collections import Counter

from prometheus_client import Gauge

from finetune_api.names import EXPERIMENT
from finetune_operator import metrics
from finetune_operator.observed import Key, Manifest


class ObjectSeries:
    """Keeps the metrics of objects in step with their statuses."""

    def __init__(self) -> None:
        self._reasons: dict[Key, str] = {}
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._restarts: dict[Key, Manifest] = {}

    def seen(self, key: Key, status: Manifest) -> None:
        """Publish a status that was planned."""
        conditions = status.get("conditions") or ()
        reason = next((c["reason"] for c in conditions if c["type"] == "Ready"), "Unknown")
        self._count(key, reason)
        if key.kind == EXPERIMENT:
            self._experiment(key, status)

    def forget(self, key: Key) -> None:
        """Drop the series of a deleted object."""
        reason = self._reasons.pop(key, None)
        if reason is None:
            return
        self._add((key.kind, key.namespace, reason), -1)
        if key.kind == EXPERIMENT:
            labels = {"namespace": key.namespace, "experiment": key.name}
            for family in metrics.EXPERIMENT_FAMILIES:
                family.remove_by_labels(labels)
            self._restarts.pop(key, None)

    def _count(self, key: Key, reason: str) -> None:
        before = self._reasons.get(key)
        if before == reason:
            return
        if before is not None:
            self._add((key.kind, key.namespace, before), -1)
        self._add((key.kind, key.namespace, reason), 1)
        self._reasons[key] = reason
        if key.kind == EXPERIMENT:
            if before is not None:
                metrics.EXPERIMENT_STATUS.remove(key.namespace, key.name, before)
            metrics.EXPERIMENT_STATUS.labels(key.namespace, key.name, reason).set(1)

    def _add(self, labels: tuple[str, str, str], change: int) -> None:
        self._counts[labels] += change
        if self._counts[labels]:
            metrics.OBJECTS.labels(*labels).set(self._counts[labels])
        else:
            del self._counts[labels]
            metrics.OBJECTS.remove(*labels)

    def _experiment(self, key: Key, status: Manifest) -> None:
        names = (key.namespace, key.name)
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
        for measured in status.get("metrics") or ():
            metrics.EXPERIMENT_EVALUATION.labels(*names, measured["name"]).set(measured["value"])
        latest = (status.get("checkpoints") or {}).get("latest") or {}
        _set(metrics.EXPERIMENT_CHECKPOINT_STEP, names, latest.get("step"))
        self._count_restarts(key, status.get("restarts") or {})

    def _count_restarts(self, key: Key, restarts: Manifest) -> None:
        """Count what was added since the last look; the first look only fixes where to begin."""
        before = self._restarts.get(key, restarts)
        self._restarts[key] = restarts
        for name, spent in restarts.items():
            counter = metrics.EXPERIMENT_RESTARTS.labels(key.namespace, key.name, name)
            counter.inc(max(0, spent - before.get(name, 0)))


def _set(gauge: Gauge, labels: tuple[str, str], value: float | None) -> None:
    if value is not None:
        gauge.labels(*labels).set(value)
