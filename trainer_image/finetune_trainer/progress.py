"""What rank 0 knows of the run: late-read step values, progress answer, Prometheus series."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from finetune_api.run_progress import Progress
from finetune_trainer.run_record import RunRecord

disable_created_metrics()  # type: ignore[no-untyped-call]
log = logging.getLogger("finetune_trainer")

BUCKETS_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
PUBLISH_SECONDS = 0.5
PROGRESS_FILE, METRICS_FILE = "progress.json", "metrics.prom"


class Board:
    """Everything rank 0 shows; written to local scratch, where the launcher's port reads it."""

    def __init__(self, folder: Path, run: str, labels: dict[str, str]) -> None:
        self._folder, self._labels = folder, labels
        self._values: dict[str, Any] = {"phase": "Starting"}
        self._run, self._published = run, 0.0
        self._totals: dict[str, float] = {}
        self._registry = CollectorRegistry()
        self._series: dict[str, Any] = {}

    def set(self, **values: Any) -> None:
        """Set fields of the progress answer and publish them at once."""
        self._values |= values
        self.publish(force=True)

    def joined(self, ranks: int) -> None:
        """Show how many ranks have come."""
        if self._values.get("ranks_joined") != ranks:
            self.set(ranks_joined=ranks)

    def resume(self, record: RunRecord, total: int) -> None:
        """Show where a run begins: what earlier attempts counted and measured goes on.

        Called again after a rollback: the seconds of steps that were taken back count no more.
        """
        self._values |= self._kept(record.step) | {
            "phase": "Training",
            "step": record.step,
            "total_steps": total,
            "percentage": 100 * record.step // total,
            "train_tokens": record.tokens,
            "best": record.best(),
        }
        self.publish(force=True)

    def attempt(self) -> dict[str, Any]:
        """Return the step this attempt began at and the seconds of its steps, once it has any."""
        return {name: self._values.get(name) for name in ("first_step", "step_seconds")}

    def values(self, **values: Any) -> None:
        """Set fields of the progress answer; they are published with the next step."""
        self._values |= values
        for field, name in GAUGES.items():
            if values.get(field) is not None:
                self.gauge(name, values[field])

    def step_values(self, *, tokens: int, seconds: float, **values: Any) -> None:
        """Set what a finished step changed, its real tokens and seconds added up."""
        spent = (self._values.get("step_seconds") or 0.0) + seconds
        tokens += self._values.get("train_tokens", 0)
        self.values(train_tokens=tokens, step_seconds=spent, **values)
        self.publish()

    def log(self, what: str) -> None:
        """Write one line for people: what was done, then the values shown last."""
        known = [(text, self._values.get(field)) for field, text in LOGGED.items()]
        shown = [text.format(value) for text, value in known if value is not None]
        log.info("%s", "  ".join([what, *shown]))

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge `finetune_<name>`."""
        self._one(Gauge, name, labels).set(value)

    def count(self, name: str, amount: float) -> None:
        """Add to a counter `finetune_<name>_total`."""
        self._one(Counter, name, {}).inc(amount)

    def total(self, name: str, amount: float) -> None:
        """Let a counter stand at `amount`, which never falls."""
        self.count(name, max(0.0, amount - self._totals.get(name, 0.0)))
        self._totals[name] = max(amount, self._totals.get(name, 0.0))

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add to a histogram `finetune_<name>`, in seconds."""
        self._one(Histogram, name, labels, buckets=BUCKETS_SECONDS).observe(value)

    def publish(self, *, force: bool = False) -> None:
        """Write both answers for the launcher, at most twice a second unless forced."""
        now = time.monotonic()
        if not force and now - self._published < PUBLISH_SECONDS:
            return
        self._published = now
        self.gauge("train_last_progress_timestamp_seconds", time.time())
        for memory, size in _memory_bytes():
            self.gauge("train_memory_bytes", size, kind=memory)
        answer = Progress(run=self._run, **self._values)
        _replace(self._folder / PROGRESS_FILE, answer.model_dump_json(by_alias=True).encode())
        _replace(self._folder / METRICS_FILE, generate_latest(self._registry))

    def _kept(self, step: int) -> dict[str, Any]:
        first = self._values.get("first_step")
        if first is None:
            return {"first_step": step, "step_seconds": 0.0}
        taken, kept = self._values["step"] - first, max(0, step - first)
        return {"step_seconds": self._values["step_seconds"] * kept / max(1, taken)}

    def _one(self, kind: Any, name: str, labels: dict[str, str], **options: Any) -> Any:
        every = self._labels | labels
        if name not in self._series:
            self._series[name] = kind(
                f"finetune_{name}",
                name.replace("_", " "),
                list(every),
                registry=self._registry,
                **options,
            )
        return self._series[name].labels(**every)


LOGGED = {
    "loss": "loss {:.4f}",
    "router_loss": "router {:.4f}",
    "learning_rate": "rate {:.3g}",
    "gradient_norm": "norm {:.3g}",
    "tokens_per_second": "{:,.0f} tokens/s",
    "mfu": "MFU {:.1%}",
    "eta_seconds": "{:.0f} s to go",
}
GAUGES = {
    "epoch": "train_epoch",
    "loss": "train_loss",
    "router_loss": "train_router_loss",
    "gradient_norm": "train_gradient_norm",
    "learning_rate": "train_learning_rate",
    "mfu": "train_mfu_ratio",
    "fill": "train_fill_ratio",
    "imbalance": "train_imbalance_ratio",
    "padding": "train_padding_ratio",
}


def _memory_bytes() -> Iterator[tuple[str, int]]:
    """Yield what rank 0 holds in host memory now, and held on the GPU at most."""
    with suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        yield "resident", pages * os.sysconf("SC_PAGE_SIZE")
    cuda: Any = torch.cuda  # partly untyped in torch
    if cuda.is_initialized():
        yield "allocated_peak", cuda.max_memory_allocated()
        yield "reserved_peak", cuda.max_memory_reserved()


def _replace(path: Path, content: bytes) -> None:
    """Swap a file of the pod's own scratch disk, so that the port never reads half of one."""
    path.with_suffix(".new").write_bytes(content)
    os.replace(path.with_suffix(".new"), path)
