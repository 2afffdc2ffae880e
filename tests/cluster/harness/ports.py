"""Ports of the loopback address that nobody listens on."""

import secrets
import socket
from contextlib import ExitStack, suppress

_LOWEST, _HIGHEST = 20_000, 30_000
"""Below those that the kernel deals to connections: one of them could take a port that was found
free before its listener does. Above those of the cluster, below those of its Services."""


def free_ports(count: int) -> list[int]:
    """Return so many different ports."""
    with ExitStack() as held:
        found: list[int] = []
        while len(found) < count:
            port = _LOWEST + secrets.randbelow(_HIGHEST - _LOWEST)
            with suppress(OSError):
                held.enter_context(socket.socket()).bind(("127.0.0.1", port))
                found.append(port)
        return found


def free_port() -> int:
    """Return one."""
    return free_ports(1)[0]
