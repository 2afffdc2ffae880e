"""Runs the operator as a process, starts it again when it ends, and reads what it says."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, Self

import operator_figures as figures
from operator_api import until

from operator_process import OperatorProcess, operator_process

LOOK_SECONDS = 0.25


class Runner:
    """At most one operator at a time."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self._folder, self._settings = folder, settings
        self._stack: AsyncExitStack | None = None
        self._operator: OperatorProcess | None = None
        self._complaints: list[dict[str, Any]] = []
        self.revived = 0
        """revived counts the operators that ended by themselves."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    @property
    def operator(self) -> OperatorProcess:
        """Return the running operator."""
        if self._operator is None:
            raise RuntimeError("no operator runs")
        return self._operator

    async def start(self) -> None:
        """Start an operator and wait until it works."""
        await self._launch()
        await until(self.is_working, "an operator that works", every=LOOK_SECONDS)

    async def stop(self) -> None:
        """End the operator as Kubernetes would."""
        await self.operator.stop()
        await self._close()

    async def cold_start(self, objects: int) -> float:
        """Start an operator; return after how many seconds it has judged every object."""
        began = time.monotonic()
        await self.start()
        await until(partial(self._knows, objects), "all objects judged", every=LOOK_SECONDS)
        return time.monotonic() - began

    async def rest(self, seconds: float) -> figures.Rest:
        """Let it be, and return what it used."""
        pid = self.operator.pid
        used = self.operator.cpu_seconds()
        await asyncio.sleep(seconds)
        cores = (self.operator.cpu_seconds() - used) / seconds
        peak = figures.resident_mib(pid, "VmHWM")
        return figures.Rest(figures.resident_mib(pid), peak, cores, seconds)

    async def revive(self) -> None:
        """Start the operator again if it has ended, as a Deployment would."""
        if self.operator.ended:
            await self._close()
            await self._launch()
            self.revived += 1

    async def is_working(self) -> bool:
        """Tell whether the start barrier is open."""
        await self.revive()
        return await self.metric_sum("finetune_operator_leader") > 0 and await self._is_ready()

    async def _is_ready(self) -> bool:
        return (await self.operator.get("/readyz"))[0] == 200

    async def _knows(self, objects: int) -> bool:
        waiting = await self.metric_sum("finetune_operator_queue_depth")
        return await self.metric_sum("finetune_objects") >= objects and not waiting

    async def metric_sum(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of a metric that carry the labels."""
        await self.revive()
        _, text = await self.operator.get("/metrics")
        return figures.metric_sum(text, name, **labels)

    def complaints(self) -> list[dict[str, Any]]:
        """Return log lines of errors and bugs of all operators so far."""
        return self._complaints + (_complaints(self._operator) if self._operator else [])

    async def _launch(self) -> None:
        if self._stack is not None:
            raise RuntimeError("an operator runs already")
        self._stack = AsyncExitStack()
        running = operator_process(self._folder, **self._settings)
        self._operator = await self._stack.enter_async_context(running)

    async def _close(self) -> None:
        if self._stack is not None:
            self._complaints += _complaints(self.operator)
            await self._stack.aclose()
        self._stack = self._operator = None


def _complaints(operator: OperatorProcess) -> list[dict[str, Any]]:
    """Return what a log complains of; a process that broke off leaves a traceback as well."""
    try:
        return operator.complaints()
    except ValueError:
        return [{"event": "a traceback", "level": "critical"}]
