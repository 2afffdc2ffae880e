"""Which rank's end explains the end of a pod: the first cause wins over its echoes."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from finetune_api.run_outcome import EXIT_CODES, FailureClass, Outcome

ORDER = (10, 11, 12, 20, 21, 22, 30, 75, 1, 40, 0)
"""Loss of a peer is nearly always an echo of what ended the peer."""
MEMORY = Path("/sys/fs/cgroup")
"""Control groups v2: `memory.events` and `memory.max`; v1 has files of its own in `memory/`."""
EVENTS = ("memory.events", "memory/memory.oom_control")
LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
_MEBIBYTE = 2**20


def first_cause(outcomes: Mapping[int, Outcome]) -> Outcome:
    """Return the outcome that explains the others; the lowest rank's among equals."""

    def weight(rank: int) -> tuple[int, int]:
        return ORDER.index(EXIT_CODES[outcomes[rank].failure_class]), rank

    return outcomes[min(outcomes, key=weight)]


def outcome_of_exit(rank: int, code: int, step: int, *, out_of_memory: bool) -> Outcome:
    """Return the outcome of a rank that left none: it was killed, or it crashed."""
    if code == -signal.SIGKILL and out_of_memory:
        return Outcome(
            failure_class=FailureClass.RESOURCES_EXHAUSTED,
            reason="OutOfHostMemory",
            rank=rank,
            step=step,
            message=f"the pod's memory limit{_memory_limit()} was reached; raise compute.resources",
        )
    if code == -signal.SIGABRT:
        return Outcome(
            failure_class=FailureClass.PEER_LOST,
            reason="PeerLost",
            rank=rank,
            step=step,
            message=f"rank {rank} was aborted, as after a collective that never ended",
        )
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return Outcome(
        failure_class=FailureClass.UNKNOWN, rank=rank, step=step, message=f"rank {rank} {how}"
    )


def out_of_memory_kills() -> int:
    """Return how many processes of this pod the kernel has killed for memory; 0 if unknown."""
    lines = _first_text(EVENTS).splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def _memory_limit() -> str:
    """Return the limit as it continues a sentence; nothing if it is unknown or there is none."""
    limit = _first_text(LIMITS).strip()
    return f" of {int(limit) // _MEBIBYTE}Mi" if limit.isdigit() else ""


def _first_text(names: Iterable[str]) -> str:
    for name in names:
        with suppress(OSError):
            return (MEMORY / name).read_text()
    return ""
