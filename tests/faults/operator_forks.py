"""Starts operators as forks of one prepared process, and reads what they say."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
from harness.ports import free_port

from operator_process import OPERATOR

ZYGOTE = Path(__file__).with_name("operator_zygote.py")
ERRORS = "finetune_operator.errors:"
DELAYS: dict[str, Any] = {
    f"{ERRORS}RefusedError.first_delay_seconds": 0.5,
    f"{ERRORS}NameTakenError.first_delay_seconds": 0.5,
    f"{ERRORS}PredecessorError.first_delay_seconds": 0.2,
    f"{ERRORS}FieldConflictError.first_delay_seconds": 1.0,
    f"{ERRORS}NotServedError.first_delay_seconds": 1.0,
    f"{ERRORS}MalformedError.first_delay_seconds": 1.0,
    "finetune_operator.errors:OperatorError.first_delay_seconds": 0.2,
    "finetune_operator.work_queue:LONGEST_DELAY_SECONDS": 2.0,
    "finetune_operator.informers:LONGEST_BACKOFF_SECONDS": 1.0,
    "finetune_operator.audit:INTERVAL_SECONDS": 5.0,
    "finetune_operator.audit:GRACE_SECONDS": 1.0,
    "finetune_operator.status_writes:LEAST_SECONDS": 1.0,
    "finetune_operator.process:ENDING_SECONDS": 12.0,
}
"""Waits of the operator, shortened: what is proven does not depend on their length."""


class OperatorFork:
    """One running operator."""

    def __init__(self, pid: int, port: int, log: Path) -> None:
        self.pid, self.log = pid, log
        self._address = f"http://127.0.0.1:{port}"
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if not self.ended.done():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def lines(self) -> list[str]:
        """Return the log so far."""
        return self.log.read_text().splitlines()

    def works(self) -> bool:
        """Tell whether it lives and its start barrier is open."""
        return not self.ended.done() and any('"event": "working"' in line for line in self.lines())

    async def get(self, session: aiohttp.ClientSession, path: str) -> tuple[int, str]:
        """Return status and text of the health port; (0, '') while it does not answer."""
        try:
            async with session.get(self._address + path) as answer:
                return answer.status, await answer.text()
        except (aiohttp.ClientError, OSError):
            return 0, ""


class OperatorForks:
    """The prepared process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._numbers = itertools.count()
        self._started: dict[int, asyncio.Future[int]] = {}
        self._running: dict[int, OperatorFork] = {}
        self._ended: dict[int, int] = {}

    async def start(
        self, folder: Path, settings: dict[str, str], delays: dict[str, Any]
    ) -> OperatorFork:
        """Start an operator with FINETUNE_OPERATOR_* `settings`."""
        number, port = next(self._numbers), free_port()
        environment = {
            "FINETUNE_OPERATOR_HEALTH_PORT": str(port),
            "FINETUNE_OPERATOR_HEALTH_ADDRESS": "127.0.0.1",
            "KUBECONFIG": str(folder / "kubeconfig"),
            **{f"FINETUNE_OPERATOR_{name.upper()}": value for name, value in settings.items()},
        }
        log = folder / f"operator-{number}.log"
        log.touch()
        order = {
            "id": number, "log": str(log), "environment": environment, "delays": DELAYS | delays,
        }  # fmt: skip
        started = self._started[number] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        pid = await started
        operator = self._running[pid] = OperatorFork(pid, port, log)
        if pid in self._ended:
            self._end(pid, self._ended.pop(pid))
        return operator

    async def read(self) -> None:
        """Take in what the prepared process says, until cancelled."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            said = json.loads(line)
            if "id" in said:
                self._started.pop(said["id"]).set_result(said["pid"])
            elif "code" in said:
                self._end(said["pid"], said["code"])

    def _end(self, pid: int, code: int) -> None:
        operator = self._running.pop(pid, None)
        if operator is None:
            self._ended[pid] = code
        else:
            operator.ended.set_result(code)

    def kill_all(self) -> None:
        """Kill every operator that still runs."""
        for operator in list(self._running.values()):
            operator.signal(signal.SIGKILL)


@asynccontextmanager
async def operator_forks() -> AsyncIterator[OperatorForks]:
    """Prepare the process that operators are forked from."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(ZYGOTE),
        env={**os.environ, "PYTHONPATH": str(OPERATOR)},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    if not await process.stdout.readline():
        raise RuntimeError("the operator cannot be imported; see above")
    forks = OperatorForks(process)
    reading = asyncio.create_task(forks.read())
    try:
        yield forks
    finally:
        forks.kill_all()
        reading.cancel()
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
