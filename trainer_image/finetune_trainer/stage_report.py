"""What a job without ranks tells while it works: its stage, its share done and its findings."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Literal

from finetune_api.run_outcome import Artifact
from finetune_api.run_progress import Progress
from finetune_api.status_parts import WarningStatus

if TYPE_CHECKING:
    from finetune_api.run_config import Identity

log = logging.getLogger("finetune_trainer")

ArtifactKind = Literal["snapshot", "prepared", "checkpoint", "export", "report"]


class StageReporter:
    """Collects what a `run(config, report)` says; the progress port reads it from a thread."""

    def __init__(self, identity: Identity) -> None:
        self._run = identity.run
        self._lock = threading.Lock()
        self._phase, self._percentage = "Starting", 0
        self.artifacts: list[Artifact] = []
        self.warnings: list[WarningStatus] = []

    def stage(self, name: str, done: float = 0.0) -> None:
        """Enter a stage (`Fetching`, `Validating`, …) with the share 0…1 of the job done so far."""
        with self._lock:
            if name != self._phase:
                log.info("%s", name)
            self._phase, self._percentage = name, _percent(done)

    def progress(self, done: float) -> None:
        """Set the share 0…1 of the job that is done."""
        with self._lock:
            self._percentage = _percent(done)

    def artifact(self, kind: ArtifactKind, uri: str, digest: str = "", size: int = 0) -> None:
        """Name a file or folder that was written; at most four are kept."""
        self.artifacts.append(Artifact(kind=kind, uri=uri, digest=digest, bytes=size))

    def warn(self, reason: str, message: str) -> None:
        """Note what is accepted but deserves attention; at most four are kept."""
        self.warnings.append(WarningStatus(reason=reason, message=message[:256]))

    def answer(self) -> Progress:
        """Return the answer of the progress port."""
        with self._lock:
            return Progress(run=self._run, phase=self._phase, percentage=self._percentage)


def _percent(done: float) -> int:
    return min(100, max(0, int(done * 100)))
