"""A run that is killed, stopped or meets damaged files ends with the weights of one left alone."""

from __future__ import annotations

import errno
import json
import os
import signal
import time

import pytest
import torch

import finetune_trainer.run  # noqa: F401 - loaded once, then inherited by every forked rank
from finetune_trainer import path_store, saver, uploads
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
    ground.forked(ground.config(1, **QUIET)).completed()
    steps = ground.folder / "claims" / "results" / ground.config()["prefix"] / "checkpoints"
    written = sorted(steps.glob("attempt-1.0/step-*/manifest.json"))
    damage(written[-1].parent)
    second = ground.forked(ground.config(2, **QUIET)).completed()
    assert second.quarantined == 1
    assert (written[-1].parent / "quarantined.json").exists()
    assert ground.weights(second) == undisturbed[1]


def test_a_checkpoint_without_manifest_does_not_exist(ground, undisturbed):
    ground.forked(ground.config(1, **QUIET)).completed()
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


def test_an_outage_of_the_storage_mid_run_changes_nothing(ground, undisturbed, monkeypatch):
    write, left = path_store._write_new, iter(range(5))

    def failing(*arguments):
        if next(left, None) is not None:
            raise OSError(errno.EIO, "input/output error")
        write(*arguments)

    monkeypatch.setattr(path_store, "_write_new", failing)
    monkeypatch.setattr(uploads, "FIRST_DELAY_SECONDS", 0.05)
    outcome = ground.forked(ground.config(1, **QUIET)).completed()
    assert ground.weights(outcome) == undisturbed[1]


def test_storage_that_never_comes_back_ends_a_finished_run_as_external_service(ground, monkeypatch):
    def failing(*_):
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(path_store, "_write_new", failing)
    monkeypatch.setattr(saver, "FINISH_SECONDS", 0.3)
    (outcome,) = ground.forked(ground.config(1, **QUIET)).outcomes()
    assert (outcome.failure_class, outcome.step) == ("ExternalService", STEPS)
    assert outcome.result is None


@pytest.mark.parametrize(
    ("ranks", "dtype"), [(1, "Float32"), (2, "Float32"), (1, "BFloat16")], ids=str
)
def test_a_whole_run_measures_and_reports_before_and_after(ground, ranks, dtype):
    plan = {"computeDtype": dtype}
    config = ground.config(ranks=ranks, evaluation={"generateSamples": 3}, plan=plan)
    outcome = ground.forked(config).completed()
    before, after = (
        next(one.value for one in outcome.training.metrics if (one.name, one.step) == ("loss", at))
        for at in (0, outcome.result.step)
    )
    assert after < before
    assert outcome.training.checkpoint_choice == "Best"
    report = json.loads(ground.file(outcome.artifacts[0].uri, "").with_suffix(".json").read_text())
    assert report["baseline"]["loss"] == before
    assert [one["prompt"] for one in report["samples"]] == ["count 0", "count 1", "count 2"]
    assert all(one["base"] and one["tuned"] for one in report["samples"])


def test_full_fine_tuning_resumes_too(tmp_path):
    quiet = QUIET | {"adapter": {"type": "None"}, "plan": QUIET["plan"] | {"rank": None}}
    whole = TrainingGround(tmp_path / "whole", train=20, tied=True)
    expected = whole.weights(whole.forked(whole.config(**quiet)).completed())
    ground = TrainingGround(tmp_path / "killed", train=20, tied=True)
    ground.forked(ground.config(1, **quiet), die={0: 4}).outcomes()
    outcome = ground.forked(ground.config(2, **quiet)).completed()
    assert outcome.training.kind == "Model"
    assert ground.weights(outcome) == expected
