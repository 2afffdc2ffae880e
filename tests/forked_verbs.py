"""Verbs of the trainer as forks of this process, which has imported torch already."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import torch

from finetune_trainer import launch
from finetune_trainer.run import rank_process


class ForkedVerb:
    """What is used of `Popen`, over a fork of this process."""

    def __init__(self, verb: Callable[[], int], env: Mapping[str, str]) -> None:
        self._code: int | None = None
        self._process = os.fork()
        if self._process:
            return
        code = 1
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            warnings.simplefilter("default")  # pytest makes errors of them
            torch.set_num_threads(1)
            os.environ.update(env)
            code = verb()
        finally:
            os._exit(code)

    def poll(self, options: int = os.WNOHANG) -> int | None:
        """Return the exit code, None while it runs."""
        if self._code is None:
            ended, status = os.waitpid(self._process, options)
            self._code = os.waitstatus_to_exitcode(status) if ended else None
        return self._code

    def wait(self) -> int:
        """Wait for the end and return the exit code."""
        code = self.poll(0)
        assert code is not None
        return code

    def children(self) -> list[int]:
        """Return the process ids of what it started, in that order."""
        found = Path(f"/proc/{self._process}/task/{self._process}/children").read_text()
        return [int(one) for one in found.split()]

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self._process, number)


def launched_by_forks() -> int:
    """Run the launcher in this process; its ranks are forks of it."""

    def started(command: list[str], env: Mapping[str, str]) -> ForkedVerb:
        assert command == [sys.executable, *launch.RANK_PROGRAM]
        return ForkedVerb(rank_process, env)

    launch.subprocess = SimpleNamespace(Popen=started)  # type: ignore[assignment]
    return launch.launch()
