"""A run killed at any moment, while it trains, copies or writes, ends with the same weights.

A few cases run with every test; the whole sweep is `make test-kills`.
"""

from __future__ import annotations

import os
import signal

import peft  # noqa: F401 - loaded once, then inherited by every forked rank
import pytest
import torch

import finetune_trainer.engine_fsdp
import finetune_trainer.run  # noqa: F401
from finetune_trainer import path_store, saving
from training_ground import TrainingGround

pytestmark = pytest.mark.filterwarnings("ignore")
sweep = pytest.mark.sweep

STEPS = 6
WRITES_OF_A_STEP = 6
RUNS = {
    "one process": ("DDP", 1),
    "DDP, 2 ranks": ("DDP", 2),
    "DDP, 3 ranks": ("DDP", 3),
    "FSDP, 2 ranks": ("FSDP", 2),
    "FSDP, 3 ranks": ("FSDP", 3),
    "ZeRO-2, 2 ranks": ("ZeRO2", 2),
}


def settings(strategy):
    return {
        "plan": {"totalSteps": STEPS, "stepsPerEpoch": 3, "strategy": strategy},
        "compute": {"strategy": strategy},
        "evaluation": {"atStart": False, "generateSamples": 0, "everyEpochs": 0.0},
        "checkpoint": {"everySteps": 1, "keepLast": 9},
    }


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Weights of a run that nothing happened to, made once per kind of run."""
    found = {}

    def weights(run):
        if run not in found:
            ground = TrainingGround(tmp_path_factory.mktemp("undisturbed"), train=20)
            found[run] = ground.weights(ground.forked(configured(ground, run)).completed())
        return found[run]

    return weights


def configured(ground, run, attempt=1):
    strategy, ranks = RUNS[run]
    return ground.config(attempt, ranks=ranks, **settings(strategy))


def resumed(ground, run):
    return ground.weights(ground.forked(configured(ground, run, attempt=2)).completed())


def reached(counted, number):
    """Count one more moment of a rank, in a file that outlives it; tell whether it is the one."""
    with counted.open("ab") as file:
        file.write(b".")
        return file.tell() == number


def swept(run, rank, number, *, often):
    return pytest.param(
        run, rank, number, id=f"{run}, rank {rank}, {number}", marks=() if often else sweep
    )


STEP_KILLS = [
    swept(run, ranks - 1, step, often=(run, step) in {("DDP, 3 ranks", 2), ("FSDP, 2 ranks", 4)})
    for run, (_, ranks) in RUNS.items()
    for step in range(1, STEPS + 1)
]
OFTEN = {
    ("one process", 0, 5),
    ("one process", 0, 8),
    ("FSDP, 2 ranks", 0, 9),
    ("FSDP, 2 ranks", 1, 3),
}
WRITERS = [
    (run, rank)
    for run, (strategy, ranks) in RUNS.items()
    for rank in range(ranks)
    if rank == 0 or strategy == "FSDP"
]
WRITE_KILLS = [
    swept(run, rank, number, often=(run, rank, number) in OFTEN)
    for run, rank in WRITERS
    for number in range(1, STEPS * (2 if rank else WRITES_OF_A_STEP) + 1)
    if run == "one process" or number % 2
]
COPY_KILLS = [
    swept(run, rank, number, often=(run, rank, number) == ("FSDP, 2 ranks", 1, 6))
    for run, rank in (("one process", 0), ("FSDP, 2 ranks", 1), ("ZeRO-2, 2 ranks", 0))
    for number in range(1, 2 * STEPS + 1)
]


@pytest.mark.parametrize(("run", "rank", "step"), STEP_KILLS)
def test_a_rank_killed_after_a_step(tmp_path, undisturbed, run, rank, step):
    ground = TrainingGround(tmp_path, train=20)
    outcomes = ground.forked(configured(ground, run), die={rank: step}).outcomes()
    assert outcomes[rank] is None
    assert resumed(ground, run) == undisturbed(run)


@pytest.mark.parametrize(("run", "rank", "number"), WRITE_KILLS)
def test_a_rank_killed_in_the_middle_of_a_write(
    tmp_path, undisturbed, monkeypatch, run, rank, number
):
    expected, write, counted = undisturbed(run), path_store._write_new, tmp_path / "writes"
    counted.touch()

    def dying(path, chunks):
        if os.environ.get("RANK") == str(rank) and reached(counted, number):
            content = b"".join(chunks)
            path.write_bytes(content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, chunks)

    ground = TrainingGround(tmp_path, train=20)
    monkeypatch.setattr(path_store, "_write_new", dying)
    outcomes = ground.forked(configured(ground, run)).outcomes()
    monkeypatch.undo()
    # A checkpoint that is postponed is no write: late numbers may never be reached.
    assert (None in outcomes) == (len(counted.read_bytes()) >= number)
    assert resumed(ground, run) == expected


@pytest.mark.parametrize(("run", "rank", "number"), COPY_KILLS)
def test_a_rank_killed_while_it_copies_its_state(
    tmp_path, undisturbed, monkeypatch, run, rank, number
):
    expected, copy, counted = undisturbed(run), saving._Copies.of, tmp_path / "copies"
    counted.touch()

    def dying(self, pieces):
        if os.environ.get("RANK") == str(rank) and reached(counted, number):
            os.kill(os.getpid(), signal.SIGKILL)
        return copy(self, pieces)

    ground = TrainingGround(tmp_path, train=20)
    monkeypatch.setattr(saving._Copies, "of", dying)
    outcomes = ground.forked(configured(ground, run)).outcomes()
    monkeypatch.undo()
    assert (None in outcomes) == (len(counted.read_bytes()) >= number)
    assert resumed(ground, run) == expected
