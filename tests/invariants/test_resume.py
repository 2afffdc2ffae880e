"""A run that is killed, stopped or meets damaged files ends with the weights of one left alone."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch

import finetune_trainer.run  # noqa: F401 - loaded once, then inherited by every forked rank
from finetune_trainer.watchdog import Heartbeat
from training_ground import TrainingGround

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

STEPS = 6
QUIET = {
    "plan": {"totalSteps": STEPS, "stepsPerEpoch": 3},
    "evaluation": {"atStart": False, "generateSamples": 0, "everyEpochs": 0.0},
    "checkpoint": {"everySteps": 1, "keepLast": 9},
}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Weights of runs that nothing happened to, by number of ranks."""
    found = {}
    for ranks in (1, 2):
        ground = TrainingGround(tmp_path_factory.mktemp("undisturbed"), train=20)
        found[ranks] = ground.weights(
            ground.forked(ground.config(ranks=ranks, **QUIET)).completed()
        )
    return found


@pytest.fixture
def ground(tmp_path):
    return TrainingGround(tmp_path, train=20)


@pytest.mark.parametrize("step", range(1, STEPS + 1), ids="killed after step {}".format)
def test_a_killed_run_resumes_to_the_same_weights(ground, undisturbed, step):
    first = ground.forked(ground.config(1, **QUIET), die={0: step})
    assert first.outcomes() == [None]
    second = ground.forked(ground.config(2, **QUIET)).completed()
    assert ground.weights(second) == undisturbed[1]


def test_two_ranks_resume_to_the_same_weights_after_one_was_killed(ground, undisturbed):
    first = ground.forked(ground.config(1, ranks=2, **QUIET), die={1: 3})
    survivor, killed = first.outcomes()
    assert killed is None
    assert survivor.failure_class == "PeerLost"
    second = ground.forked(ground.config(2, ranks=2, **QUIET)).completed()
    assert ground.weights(second) == undisturbed[2]


def test_a_signal_to_one_rank_stops_both_after_the_same_step(ground, undisturbed, monkeypatch):
    done = Heartbeat.step_done

    def slow(self, steps, seconds):
        done(self, steps, seconds)
        time.sleep(0.2)

    monkeypatch.setattr(Heartbeat, "step_done", slow)
    first = ground.forked(ground.config(1, ranks=2, **QUIET))
    first.at_step(1)
    os.kill(first.processes[1], signal.SIGTERM)
    one, other = first.outcomes()
    assert (one.failure_class, other.failure_class) == ("Checkpointed", "Checkpointed")
    assert one.step == other.step == one.checkpoint.step < STEPS
    monkeypatch.undo()
    second = ground.forked(ground.config(2, ranks=2, **QUIET)).completed()
    assert ground.weights(second) == undisturbed[2]


def flip(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "a flipped byte": lambda folder: flip(folder / "trainable-00000-of-00001.safetensors"),
    "a cut file": lambda folder: os.truncate(folder / "optimizer-00000-of-00001.safetensors", 40),
    "a missing file": lambda folder: (folder / "state.json").unlink(),
    "a broken manifest": lambda folder: (folder / "manifest.json").write_text("{"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(ground, undisturbed, damage):
    ground.forked(ground.config(1, **QUIET), die={0: 5}).outcomes()
    steps = ground.folder / "claims" / "results" / ground.config()["prefix"] / "checkpoints"
    written = sorted(steps.glob("attempt-1.0/step-*/manifest.json"))
    damage(written[-1].parent)
    second = ground.forked(ground.config(2, **QUIET)).completed()
    assert second.quarantined == 1
    assert (written[-1].parent / "quarantined.json").exists()
    assert ground.weights(second) == undisturbed[1]


def test_a_checkpoint_without_manifest_does_not_exist(ground, undisturbed):
    ground.forked(ground.config(1, **QUIET), die={0: 4}).outcomes()
    steps = ground.folder / "claims" / "results" / ground.config()["prefix"] / "checkpoints"
    newest = max(steps.glob("attempt-1.0/step-*/manifest.json"))
    newest.unlink()
    second = ground.forked(ground.config(2, **QUIET)).completed()
    assert second.quarantined == 0
    assert ground.weights(second) == undisturbed[1]


def test_a_checkpoint_that_differs_from_what_was_reported_is_not_resumed(ground):
    first = ground.forked(ground.config(1, **QUIET)).completed()
    known = first.checkpoint.model_dump() | {"digest": "sha256:" + "0" * 64}
    config = ground.config(2, **QUIET) | {"known_checkpoints": [known]}
    assert ground.forked(config).completed().quarantined == 1
