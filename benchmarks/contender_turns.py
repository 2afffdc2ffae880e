"""How two contenders, each in a process of its own, take turns: A B A B, one epoch each.

Only the process whose turn it is works, so both halves of a pair meet the same machine, and
start-up costs nobody anything. A process talks in lines of JSON on a pipe of its own, because
libraries print what they like.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PIPE_ENV = "BENCHMARK_PIPE"


class Turns:
    """The contender's side: waits for its turn, tells what an epoch took."""

    def __init__(self, steps: int) -> None:
        self._steps, self._tokens = steps, 0
        self._pipe = os.fdopen(int(os.environ[PIPE_ENV]), "w")
        self._started, self._core = 0.0, 0.0

    def begin(self) -> None:
        """Wait for the first turn; to be called before the first step."""
        self._wait()

    def step_done(self, done: int, **facts: Any) -> None:
        """Count a step; at the end of an epoch tell its seconds and wait for the next turn."""
        if done % self._steps == 0:
            seconds = time.perf_counter() - self._started
            self._tell(seconds=seconds, core=time.process_time() - self._core, **facts)
            self._wait()

    def end(self, **facts: Any) -> None:
        """Tell what is only known at the end, the peak of resident memory among it."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        self._tell(peak_mb=peak, **facts)
        self._pipe.close()

    def _tell(self, **facts: Any) -> None:
        self._pipe.write(json.dumps(facts) + "\n")
        self._pipe.flush()

    def _wait(self) -> None:
        sys.stdin.readline()
        self._started, self._core = time.perf_counter(), time.process_time()


@dataclass
class Contender:
    """The other side: one process, its epochs and its end."""

    name: str
    process: subprocess.Popen[str]
    answers: Any
    seconds: list[float] = field(default_factory=list)
    core_seconds: list[float] = field(default_factory=list)
    """core_seconds were computed, not waited: what others do on the machine counts less."""
    ending: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def started(cls, script: Path, name: str, arguments: dict[str, Any]) -> Contender:
        """Start a contender; it loads while the other one does."""
        ours, theirs = os.pipe()
        paths = [str(ROOT / one) for one in ("operator", "trainer_image", "tests", "benchmarks")]
        process = subprocess.Popen(
            [sys.executable, str(script), name, json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            pass_fds=[theirs],
            env=os.environ
            | {
                PIPE_ENV: str(theirs),
                "PYTHONPATH": os.pathsep.join(paths),
                "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
                "PYTHONWARNINGS": "ignore",
            },
        )
        os.close(theirs)
        return cls(name, process, os.fdopen(ours))

    def turn(self) -> None:
        """Let it train one epoch and note how long it took."""
        self._go()
        answer = self._answer()
        self.seconds.append(answer["seconds"])
        self.core_seconds.append(answer["core"])

    def finish(self) -> None:
        """Let it end and take its last facts."""
        self._go()
        self.ending = self._answer()
        self.process.wait(timeout=60)

    def _go(self) -> None:
        assert self.process.stdin is not None
        # One that has ended is told by its empty answer.
        with suppress(BrokenPipeError):
            self.process.stdin.write("go\n")
            self.process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        line = self.answers.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended early with code {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def compete(script: Path, names: list[str], jobs: list[dict[str, Any]], pairs: int) -> Any:
    """Return both contenders after one warm-up epoch and `pairs` measured ones each."""
    both = [Contender.started(script, n, job) for n, job in zip(names, jobs, strict=True)]
    try:
        for _ in range(pairs + 1):
            for one in both:
                one.turn()
        for one in both:
            one.seconds, one.core_seconds = one.seconds[1:], one.core_seconds[1:]
            one.finish()
    finally:
        for one in both:
            if one.process.poll() is None:
                one.process.kill()
    return both
