"""GPU time is told by what it was for, and what the whole run will take of it."""

from __future__ import annotations

import pytest

from builders import ended_pod, pod
from finetune_api.run_outcome import FailureClass
from finetune_api.run_progress import Progress
from finetune_operator.observed import Policy
from good_ends import trained
from observed_runs import PENDING
from played_run import PlayedRun

GPUS = {"compute": {"nodes": 2, "gpusPerNode": 2, "strategy": "DDP"}}
PRICED = Policy(image="trainer:test", gpu_hour_prices={"*": 3.6})
"""A GPU-second costs 0.001."""


@pytest.fixture
def run() -> PlayedRun:
    """A run on four GPUs whose first attempt is on its nodes."""
    found = PlayedRun(PRICED, **GPUS)
    found.begins()
    return found


def uses(run: PlayedRun) -> tuple[int, int, int, int, int]:
    """Return seconds per GPU: useful, lost, startup, evaluation, and all."""
    cost = run.status.cost
    assert cost is not None
    told = (
        cost.useful_gpu_seconds,
        cost.lost_gpu_seconds,
        cost.startup_gpu_seconds,
        cost.evaluation_gpu_seconds,
        cost.gpu_seconds,
    )
    assert sum(told[:4]) <= told[4]
    useful, lost, startup, evaluation, held = (seconds // 4 for seconds in told)
    return useful, lost, startup, evaluation, held


def test_the_start_ends_with_the_first_steps(run: PlayedRun) -> None:
    run.step(run.attempt(), seconds=20)
    assert uses(run) == (0, 0, 20, 0, 20)
    run.step(run.attempt(progress=Progress(run="uid-experiment/1", phase="Loading")), seconds=10)
    run.trains(2, 0, 4.0, seconds=10)
    assert uses(run) == (4, 0, 36, 0, 40)
    run.trains(10, 0, 20.0, seconds=20)
    assert uses(run) == (20, 0, 36, 0, 60)


def test_what_passes_while_it_evaluates_was_for_that(run: PlayedRun) -> None:
    run.trains(10, 0, 10.0, seconds=10)
    run.trains(10, 0, 10.0, seconds=5, phase="Evaluating")
    run.trains(10, 0, 10.0, seconds=30, phase="Evaluating")
    run.trains(11, 0, 11.0, seconds=10)
    assert uses(run) == (11, 0, 0, 39, 55)


def test_a_restart_takes_steps_back_and_starts_again(run: PlayedRun) -> None:
    run.trains(60, 0, 60.0, seconds=100)
    run.dies()
    assert uses(run) == (60, 0, 40, 0, 100)
    run.begins(seconds=500)
    run.step(run.attempt(), seconds=20)
    assert uses(run) == (60, 0, 60, 0, 120)
    run.trains(45, 40, 5.0, seconds=10)
    assert uses(run) == (45, 20, 65, 0, 130)
    run.trains(46, 40, 6.0, seconds=1)
    assert uses(run) == (46, 20, 65, 0, 131)


def test_an_attempt_that_never_took_a_step_was_all_start(run: PlayedRun) -> None:
    run.dies(seconds=50)
    assert uses(run) == (0, 0, 50, 0, 50)
    assert run.status.cost is not None
    assert run.status.cost.forecast is None


def test_a_rollback_loses_the_seconds_of_its_steps(run: PlayedRun) -> None:
    run.trains(60, 0, 120.0, seconds=120)
    run.trains(41, 0, 82.0, seconds=2)
    assert uses(run) == (82, 38, 0, 0, 122)


def test_what_its_queue_stops_starts_again(run: PlayedRun) -> None:
    run.trains(50, 0, 50.0, seconds=50)
    run.step(run.attempt(progress=Progress(run="uid-experiment/1", phase="Starting")), seconds=5)
    run.step(run.attempt(progress=Progress(run="uid-experiment/1", phase="Starting")), seconds=15)
    assert uses(run)[:3] == (50, 0, 15)


def test_the_forecast_is_what_was_held_and_what_remains(run: PlayedRun) -> None:
    run.trains(25, 0, 25.0, seconds=50, eta_seconds=150.0)
    cost = run.status.cost
    assert cost is not None
    assert (cost.gpu_seconds, cost.forecast_gpu_seconds) == (200, 800)
    assert (cost.amount, cost.forecast) == (0.2, 0.8)


def test_without_a_price_the_forecast_is_time_alone() -> None:
    run = PlayedRun(**GPUS)
    run.begins()
    run.trains(25, 0, 25.0, seconds=50, eta_seconds=150.0)
    cost = run.status.cost
    assert cost is not None
    assert (cost.forecast_gpu_seconds, cost.forecast) == (800, None)


def test_a_finished_run_has_no_forecast_and_all_its_steps(run: PlayedRun) -> None:
    run.trains(90, 0, 45.0, seconds=60, eta_seconds=5.0)
    said = trained().model_copy(update={"first_step": 0, "step_seconds": 50.0})
    ends = ended_pod(0, FailureClass.COMPLETED, outcome=said), pod(1, "Succeeded", exit_code=0)
    run.step(run.attempt(*ends, complete=True), seconds=10)
    assert uses(run) == (50, 0, 15, 0, 70)
    assert run.status.cost is not None
    assert run.status.cost.forecast_gpu_seconds is None


def test_waiting_for_nodes_is_for_nothing(run: PlayedRun) -> None:
    run.trains(50, 0, 50.0, seconds=50)
    run.dies()
    run.step(seconds=500)
    run.number += 1
    run.step(run.attempt(*PENDING), seconds=900)
    assert uses(run) == (50, 0, 0, 0, 50)


def test_runs_without_gpus_tell_no_cost() -> None:
    run = PlayedRun()
    run.begins()
    run.trains(25, 0, 25.0, seconds=50, eta_seconds=150.0)
    assert run.status.cost is None
