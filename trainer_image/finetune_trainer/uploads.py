"""Writes to storage in a thread of its own, so that slow or failing storage stops no training."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from finetune_trainer.errors import (
    ExternalServiceError,
    PeerLostError,
    ResourcesExhaustedError,
    TrainerError,
)

log = logging.getLogger(__name__)

FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS = 1.0, 30.0
OUTAGE_SECONDS = 600.0
"""Volumes mounted from object stores answer a short outage like a broken disk."""


class Uploads:
    """An ordered queue of writes, each repeated until it succeeds or the run gives up."""

    def __init__(self) -> None:
        self._jobs: deque[tuple[str, Callable[[], None]]] = deque()
        self._changed = threading.Condition()
        self._error: Exception | None = None
        self._failing_since = 0.0
        self._fatal: TrainerError | None = None
        self.retries = 0
        self._thread = threading.Thread(target=self._work, name="uploads", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Tell whether a write is waiting or under way."""
        return bool(self._jobs)

    def submit(self, name: str, job: Callable[[], None]) -> None:
        """Queue a write; it must be safe to repeat from its beginning."""
        with self._changed:
            self._jobs.append((name, job))
            self._changed.notify_all()

    def check(self, *, postponing: bool = False) -> None:
        """Raise what makes further training pointless.

        That is a newer attempt that writes now, or, when a second write has to be postponed,
        storage that is full or read-only. An outage alone never raises here.
        """
        if self._fatal is not None:
            raise self._fatal
        if not postponing or not isinstance(self._error, ResourcesExhaustedError):
            return
        if not _may_pass(self._error) or time.monotonic() - self._failing_since > OUTAGE_SECONDS:
            raise self._error

    def finish(self, seconds: float, beat: Callable[[], None]) -> None:
        """Wait until everything is written; raise the last error when the time is over."""
        ends = time.monotonic() + seconds
        while self.busy and self._fatal is None:
            if time.monotonic() > ends:
                raise _final(self._error)
            beat()
            with self._changed:
                self._changed.wait(0.1)
        self.check()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._jobs:
                    self._changed.wait()
                name, job = self._jobs[0]
            if not self._written(name, job):
                return
            with self._changed:
                self._jobs.popleft()
                self._error = None
                self._changed.notify_all()

    def _written(self, name: str, job: Callable[[], None]) -> bool:
        delay = FIRST_DELAY_SECONDS
        while True:
            try:
                job()
            except PeerLostError as error:
                self._fatal = error
                return False
            except Exception as error:
                if self._error is None:
                    self._failing_since = time.monotonic()
                self._error = error
                self.retries += 1
                log.warning("%s was not written, next try in %.0f s: %s", name, delay, error)
                time.sleep(delay)
                delay = min(2 * delay, LONGEST_DELAY_SECONDS)
            else:
                return True


def _may_pass(error: Exception | None) -> bool:
    """Tell whether waiting may help: not when a disk is full, or access is denied."""
    return not isinstance(error, TrainerError) or error.reason in (
        "StorageUnavailable",
        "ServiceUnavailable",
    )


def _final(error: Exception | None) -> TrainerError:
    if isinstance(error, TrainerError) and not _may_pass(error):
        return error
    kind = type(error).__name__ if error is not None else "no answer"
    return ExternalServiceError(
        f"storage: results could not be written until the run's end ({kind}); repair the storage, "
        "the run continues from its newest checkpoint"
    )
