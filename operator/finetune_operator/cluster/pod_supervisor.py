"""First process of a local pod: no process of a pod outlives its supervisor or its command.

Run as a script with nothing but the standard library, so that it starts at once. Its standard
input is a pipe that `finetune` holds open and never writes to: its end means that `finetune` is
gone, even by SIGKILL, and everything below is killed. SIGTERM is passed on to the command alone,
as a container runtime does; when the command ends, what it left running is killed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
KILLED = 128 + signal.SIGKILL


def main(command: list[str]) -> int:
    """Run `command` to its end and return its exit code, 128 + n for signal n."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with open(os.devnull) as nothing:
        actions = [(os.POSIX_SPAWN_DUP2, nothing.fileno(), 0)]
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        child = os.posix_spawnp(
            command[0], command, os.environ, file_actions=actions, setpgroup=0, setsigmask=[]
        )
    signal.signal(signal.SIGTERM, lambda *_: _send(child, signal.SIGTERM))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    threading.Thread(target=_die_with_parent, args=(child,), daemon=True).start()
    status = _wait(child)
    _kill_all(child)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _wait(child: int) -> int:
    while True:
        ended, status = os.wait()
        if ended == child:
            return status


def _die_with_parent(child: int) -> None:
    while os.read(0, 1):
        pass
    _kill_all(child)
    os._exit(KILLED)


def _kill_all(child: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    while found := _descendants(os.getpid()):
        for process in found:
            _send(process, signal.SIGKILL)


def _descendants(root: int) -> list[int]:
    """Return the living processes below `root`; needs /proc, elsewhere there are none to see."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError):
            name, _, rest = path.read_text().rpartition(")")
            state, parent, *_ = rest.split()
            if state != "Z":
                parents[int(name.split(" ", 1)[0])] = int(parent)
    found, front = [], [root]
    while front:
        front = [process for process, parent in parents.items() if parent in front]
        found += front
    return found


def _send(process: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, number)


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
