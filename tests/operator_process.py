"""Starts the operator as its own process against a server, and reads what it says."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from harness.ports import free_port

OPERATOR = Path(__file__).parents[1] / "operator"


class OperatorProcess:
    """`python -m finetune_operator`, its health port and its log."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, log: Path) -> None:
        self._process, self._log = process, log
        self.pid, self.address = process.pid, f"http://127.0.0.1:{port}"

    @property
    def ended(self) -> bool:
        """Whether the process is no more."""
        return self._process.returncode is not None

    async def get(self, path: str) -> tuple[int, str]:
        """Return status and text of the health port; (0, '') while it does not answer."""
        try:
            async with aiohttp.ClientSession() as session, session.get(self.address + path) as got:
                return got.status, await got.text()
        except aiohttp.ClientError:
            return 0, ""

    async def working(self) -> None:
        """Wait until the start barrier is open."""
        async with asyncio.timeout(60):
            while not any(line.get("event") == "working" for line in self.log()):
                assert self._process.returncode is None, self._log.read_text()
                await asyncio.sleep(0.1)

    async def ready(self) -> None:
        """Wait until /readyz says so."""
        async with asyncio.timeout(60):
            while (await self.get("/readyz"))[0] != 200:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.1)

    def log(self) -> list[dict]:
        """Return the log lines so far; text that is no JSON fails."""
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def complaints(self) -> list[dict]:
        """Return log lines of errors and bugs."""
        return [line for line in self.log() if line["level"] in ("error", "critical")]

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End the process and return its exit code."""
        if self._process.returncode is None:
            self._process.send_signal(number)
        return await asyncio.wait_for(self._process.wait(), 30)

    def resident_bytes(self) -> int:
        """Return the memory that the process holds now."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def cpu_seconds(self) -> float:
        """Return the processor time used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def operator_process(folder: Path, **settings: str) -> AsyncIterator[OperatorProcess]:
    """Run the operator with FINETUNE_OPERATOR_* `settings`, and kill it at the end."""
    port, log = free_port(), folder / f"operator-{free_port()}.log"
    environment = {
        **os.environ,
        "PYTHONPATH": str(OPERATOR),
        "FINETUNE_OPERATOR_TRAINER_IMAGE": "trainer:test",
        "FINETUNE_OPERATOR_HEALTH_PORT": str(port),
        "FINETUNE_OPERATOR_HEALTH_ADDRESS": "127.0.0.1",
        "FINETUNE_OPERATOR_LEASE_NAMESPACE": "ops",
        **{f"FINETUNE_OPERATOR_{name.upper()}": value for name, value in settings.items()},
    }
    with log.open("w") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "finetune_operator", env=environment, stderr=stderr
        )
    try:
        yield OperatorProcess(process, port, log)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def until(holds: Callable[[], object], seconds: float = 20) -> None:
    """Wait until `holds()` is true; TimeoutError otherwise."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.05)
