"""Forks operators: one process imports everything, each operator is a fork of it.

Reads one JSON line per order on standard input: {"id", "environment", "log", "delays"} starts an
operator. Writes {"id", "pid"} when it runs and {"pid", "code"} when it has ended. A fork is the
whole `python -m finetune_operator` but for its imports, which take longer than all the rest.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import sys
import traceback
from typing import Any


def set_delays(delays: dict[str, Any]) -> None:
    """Set `module:attribute.attribute` to other seconds; what is named must exist."""
    for place, seconds in delays.items():
        module, _, names = place.partition(":")
        *owners, name = names.split(".")
        found: Any = importlib.import_module(module)
        for owner in owners:
            found = getattr(found, owner)
        getattr(found, name)
        setattr(found, name, seconds)


def operate(order: dict[str, Any]) -> int:
    """Become the operator."""
    from finetune_operator.__main__ import main

    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDWR)
    for source, target in ((null, 0), (null, 1), (log, 2)):
        os.dup2(source, target)
    os.environ.update(order["environment"])
    set_delays(order["delays"])
    return main()


def forked(order: dict[str, Any]) -> int:
    """Return the pid of a new operator."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        code = operate(order)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def say(**facts: Any) -> None:
    """Write one line."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def serve() -> None:
    """Take orders until standard input ends."""
    import aiohttp.web  # noqa: F401 - imported late by the operator
    import kopf  # noqa: F401

    import finetune_operator.__main__  # noqa: F401 - imported before the fork

    pending, say_ready = b"", {"ready": True}
    say(**say_ready)
    while True:
        readable, _, _ = select.select([0], [], [], 0.02)
        if readable:
            read = os.read(0, 65536)
            if not read:
                return
            *lines, pending = (pending + read).split(b"\n")
            for line in lines:
                order = json.loads(line)
                say(id=order["id"], pid=forked(order))
        reap()


def reap() -> None:
    """Tell of every operator that has ended."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        say(pid=pid, code=os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    serve()
