"""Results on their way to storage: checkpoints one at a time, rank 0's records behind them."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from finetune_api.evaluation_settings import Checkpoint
from finetune_api.run_outcome import Artifact, CheckpointRef
from finetune_trainer.checkpoint import Checkpoints, Parts, Snapshot
from finetune_trainer.run_record import RunRecord
from finetune_trainer.split import VALIDATION
from finetune_trainer.uploads import Uploads

FINISH_SECONDS = 300.0


class Saver:
    """Hands snapshots to the writing thread and knows what has been verified."""

    def __init__(self, checkpoints: Checkpoints, settings: Checkpoint) -> None:
        self._store, self._checkpoints, self._settings = checkpoints.store, checkpoints, settings
        self._uploads = Uploads()
        self._last_step = 0
        self._cut_times: list[float] = []
        self._known: dict[int, CheckpointRef] = {}
        self.owed = False
        self.postponed = 0
        self.save_seconds = 0.0
        self.saved_time = time.monotonic()
        self.artifacts: list[Artifact] = []
        self.write_seconds: deque[float] = deque()
        """write_seconds is how long the thread was busy with each checkpoint; readers drain it."""
        self.written_bytes = 0
        self.last_time: float | None = None
        """last_time is when the newest verified checkpoint was complete, as of time.time()."""

    def resumed(self, record: RunRecord, ref: CheckpointRef) -> None:
        """Count the checkpoint the run goes on from, and those it knew, as verified."""
        self._known = {**record.known_checkpoints(), ref.step: ref}
        self._last_step = ref.step

    def known(self) -> dict[int, CheckpointRef]:
        """Return the verified checkpoints by step."""
        return dict(sorted({**self._known, **self._checkpoints.written()}.items()))

    @property
    def quarantined(self) -> int:
        """Number of damaged checkpoints that were set aside."""
        return len(self._checkpoints.quarantined)

    @property
    def upload_retries(self) -> int:
        """Number of writes that failed and were tried again."""
        return self._uploads.retries

    @property
    def may_pay(self) -> bool:
        """Tell whether a postponed checkpoint can be cut now."""
        return self.owed and not self._uploads.busy

    @property
    def lag_seconds(self) -> float:
        """Age of the oldest checkpoint that was cut and is not in storage yet; 0 without one."""
        return time.monotonic() - self._cut_times[0] if self._cut_times else 0.0

    def begins(self, step: int, beat: Callable[[], None], *, wait: bool) -> bool:
        """Decide whether a checkpoint of `step` is cut now.

        While another is under way it is owed, unless `wait` is set: then the other is awaited, so
        that no more than one copy of the state is held.
        """
        self._uploads.check()
        if step in (0, self._last_step):
            return False
        if self._uploads.busy and not wait:
            self._uploads.check(postponing=True)
            self.owed, self.postponed = True, self.postponed + 1
            return False
        if wait:
            self.finish(beat)
        self.owed, self._last_step, self.saved_time = False, step, time.monotonic()
        return True

    def submit(self, snapshot: Snapshot, parts: Parts, record: RunRecord) -> None:
        """Queue the writing of a copied state, and retention behind it."""
        self._cut_times.append(time.monotonic())
        name = f"checkpoint of step {snapshot.step}"
        self._uploads.submit(name, lambda: self._write(snapshot, parts))
        self.retain(sorted(record.kept_steps(self._settings)))

    def retain(self, kept: list[int]) -> None:
        """Queue the removal of checkpoints that neither age nor `kept` keeps."""
        last = self._settings.keep_last
        self._uploads.submit("retention", lambda: self._checkpoints.retain(last, kept))

    def went_back(self, step: int) -> None:
        """Forget that later steps than `step` were saved."""
        self._last_step = step

    def write_evaluation(self, found: dict[str, float], split: str = VALIDATION) -> None:
        """Queue the write-once record of an evaluation."""
        folder = f"{self._run_folder('evaluations')}/step-{int(found['step'])}"
        name = "metrics.json" if split == VALIDATION else f"metrics-{split}.json"
        self._submit_files(folder, {name: _json({"split": split, **found})})

    def write_report(self, files: dict[str, bytes]) -> None:
        """Queue the report and name it among the artifacts."""
        identity = self._checkpoints.identity
        folder = f"report-{identity.attempt}.{identity.run}"
        self._submit_files(folder, files)
        uri = f"{self._store.uri}/{folder}/report.html"
        self.artifacts.append(Artifact(kind="report", uri=uri))

    def finish(self, beat: Callable[[], None], seconds: float | None = None) -> None:
        """Wait until everything is in storage; raise ExternalServiceError if it cannot be."""
        self._uploads.finish(FINISH_SECONDS if seconds is None else seconds, beat)

    def _write(self, snapshot: Snapshot, parts: Parts) -> None:
        started = time.monotonic()
        size = self._checkpoints.write(snapshot, parts)
        seconds = time.monotonic() - started
        self.save_seconds = max(self.save_seconds, seconds)
        self.write_seconds.append(seconds)
        self.written_bytes += size
        self.last_time = time.time()
        self._cut_times.pop(0)

    def _submit_files(self, folder: str, files: dict[str, bytes]) -> None:
        place = self._store.child(folder)

        def write() -> None:
            for name, content in files.items():
                # Left by an interrupted try of this same write; nobody else writes here.
                if place.exists(name):
                    place.delete(name)
                place.write(name, content)

        self._uploads.submit(folder, write)

    def _run_folder(self, kind: str) -> str:
        identity = self._checkpoints.identity
        return f"{kind}/attempt-{identity.attempt}.{identity.run}"


def _json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False).encode()
