"""The host processes of the cluster: started in the background, found and ended by recorded pid.

A record holds the pid and the kernel's start time of the process: after a restart of the machine
a recorded pid may belong to somebody else, who must not be killed.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from harness.errors import NotReadyError
from harness.locations import LOGS, RUN

T = TypeVar("T")
_CHILDREN: list[subprocess.Popen[bytes]] = []
"""What this process has started: Python complains about a child that is forgotten while it runs."""


def start(name: str, command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> None:
    """Start a process that outlives this one; its output goes to the log of its name."""
    LOGS.mkdir(parents=True, exist_ok=True)
    RUN.mkdir(parents=True, exist_ok=True)
    with (LOGS / f"{name}.log").open("ab") as log:
        child = subprocess.Popen(
            [str(word) for word in command],
            env={**os.environ, **(env or {})},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    _CHILDREN.append(child)
    record = {"pid": child.pid, "started": started_at(child.pid)}
    _record(name).write_text(json.dumps(record), encoding="utf-8")


def started_at(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot, None when there is none (or a zombie)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


def recorded() -> list[str]:
    """Names of all processes that were started and not stopped."""
    return sorted(path.stem for path in RUN.glob("*.json"))


def pid_of(name: str) -> int | None:
    """Return the pid of the running process of this name, None when it is gone."""
    try:
        record = json.loads(_record(name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    pid = int(record["pid"])
    return pid if record["started"] and started_at(pid) == record["started"] else None


def stop(name: str, grace_seconds: float = 10) -> None:
    """End the process and wait until it is gone; a dead one's record is removed."""
    pid = pid_of(name)
    if pid is not None:
        end(pid, grace_seconds)
    _record(name).unlink(missing_ok=True)


def end(pid: int, grace_seconds: float = 10) -> None:
    """SIGTERM, then SIGKILL, and wait: a left-over API server would keep its port."""
    for which, seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, which)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if started_at(pid) is None:
                return
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            time.sleep(0.02)


def wait_until(what: str, probe: Callable[[], T], timeout: float = 60, interval: float = 0.1) -> T:
    """Repeat the probe until it answers something true and return that.

    Raises NotReadyError after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while not (answer := probe()):
        if time.monotonic() > deadline:
            raise NotReadyError(f"{what}: not after {timeout:g} s")
        time.sleep(interval)
    return answer


def answers(url: str) -> bool:
    """Say whether an HTTP address answers with success."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status < 300)
    except (urllib.error.URLError, OSError):
        return False


def wait_for_answer(name: str, url: str, timeout: float = 60) -> None:
    """Wait until the process answers on its address; say at once when it has ended instead."""

    def probe() -> bool:
        if pid_of(name) is None:
            raise NotReadyError(f"{name} ended during its start; see {LOGS / name}.log")
        return answers(url)

    wait_until(f"{name} to answer (see {LOGS / name}.log)", probe, timeout)


def _record(name: str) -> Path:
    return RUN / f"{name}.json"
