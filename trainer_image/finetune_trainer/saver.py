"""Rank 0's results on their way to storage: checkpoints one at a time, records behind them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from finetune_api.run_outcome import Artifact, CheckpointRef
from finetune_api.training_settings import Checkpoint
from finetune_trainer.checkpoint import Checkpoints, Snapshot
from finetune_trainer.run_record import RunRecord
from finetune_trainer.uploads import Uploads

FINISH_SECONDS = 300.0


class Saver:
    """Hands snapshots to the writing thread and knows what has been verified."""

    def __init__(self, checkpoints: Checkpoints, settings: Checkpoint) -> None:
        self._store, self._checkpoints, self._settings = checkpoints.store, checkpoints, settings
        self._uploads = Uploads()
        self._last_step = 0
        self._known: dict[int, CheckpointRef] = {}
        self.owed = False
        self.postponed = 0
        self.save_seconds = 0.0
        self.saved_time = time.monotonic()
        self.artifacts: list[Artifact] = []

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

    def save(self, snapshot: Callable[[], Snapshot], record: RunRecord, *, wait: bool) -> None:
        """Cut a checkpoint; while another is under way it is owed, unless `wait` is set.

        `wait` is for the last one of a run: it queues behind the other.
        """
        self._uploads.check()
        if record.step in (0, self._last_step):
            return
        if self._uploads.busy and not wait:
            self._uploads.check(postponing=True)
            self.owed, self.postponed = True, self.postponed + 1
            return
        self.owed, self._last_step, self.saved_time = False, record.step, time.monotonic()
        taken, ranking = snapshot(), record.ranking()
        self._uploads.submit(f"checkpoint of step {record.step}", lambda: self._write(taken))
        self.retain(ranking)

    def retain(self, ranking: list[int]) -> None:
        """Queue the removal of checkpoints that neither age nor rank keeps."""
        keep = self._settings.keep_last, ranking[: self._settings.keep_best]
        self._uploads.submit("retention", lambda: self._checkpoints.retain(*keep))

    def write_evaluation(self, record: RunRecord) -> None:
        """Queue the write-once record of the newest evaluation."""
        found = record.evaluations[-1]
        folder = f"{self._run_folder('evaluations')}/step-{int(found['step'])}"
        self._submit_files(folder, {"metrics.json": _json(found)})

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

    def _write(self, snapshot: Snapshot) -> None:
        started = time.monotonic()
        self._checkpoints.write(snapshot)
        self.save_seconds = max(self.save_seconds, time.monotonic() - started)

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
