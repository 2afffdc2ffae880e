"""The operator is killed again and again while runs go: nothing is lost, nothing is doubled."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from harness import kubectl as kube
from harness.errors import HarnessError
from harness.writes import writes
from installation import kill_operator, operator_is_back, operator_works
from scenarios.after_faults import KIND, nothing_ran_twice_or_is_left
from scenarios.stories import ONE_CORE, Ground, experiment, wait_for_condition, weights_digest

EVERY_SECONDS, STEPS = 10, 60
LIGHT = {"nodes": 1, "gpusPerNode": 0, "resources": ONE_CORE}


@contextmanager
def _killing_the_operator() -> Iterator[list[bool]]:
    """Kill it whenever it has worked for a few seconds while inside; yields the kills."""
    over, kills = threading.Event(), list[bool]()

    def kill() -> None:
        while not over.wait(EVERY_SECONDS):
            with suppress(AssertionError, HarnessError, ProcessLookupError):
                kill_operator()
                kills.append(True)
            while not (operator_works() or over.wait(0.5)):
                pass

    killer = threading.Thread(target=kill, name="killer")
    killer.start()
    try:
        yield kills
    finally:
        over.set()
        killer.join()


@pytest.mark.parametrize("runs", [4, pytest.param(20, marks=pytest.mark.sweep)])
def test_runs_end_alike_whatever_happens_to_the_operator(sums: Ground, runs: int) -> None:
    names = [f"of-{runs}-{number}" for number in range(runs)]
    kube.apply(experiment("left-alone", steps=STEPS, compute=LIGHT), namespace=sums.namespace)
    calm = wait_for_condition(KIND, "left-alone", sums.namespace, "Complete")
    kube.apply([experiment(name, steps=STEPS, compute=LIGHT) for name in names],
               namespace=sums.namespace)  # fmt: skip
    with _killing_the_operator() as kills:
        ended = [
            wait_for_condition(KIND, name, sums.namespace, "Complete", timeout=900)
            for name in names
        ]
    operator_is_back()

    print(f"{runs} runs, {len(kills)} kills")
    assert len(kills) >= 2
    created = Counter(
        write.name
        for write in writes(sums.namespace)
        if (write.resource, write.code) == ("jobs", 201)
    )
    for name, body in zip(names, ended, strict=True):
        status = body["status"]
        assert status["attempt"]["number"] == 1, status["history"]
        assert set(status["restarts"].values()) == {0}, status["history"]
        assert weights_digest(sums.files, body) == weights_digest(sums.files, calm)
        assert (created[f"{name}-p1"], created[f"{name}-a1"]) == (1, 1), created
        nothing_ran_twice_or_is_left(sums, name, attempts=1)
