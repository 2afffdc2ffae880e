"""The quickstart's story on this machine: to the end, through kills, stops and damage."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress

import pytest

from finetune_cli.local_run import INTERRUPTED
from local_story import (
    LocalStory,
    dataset,
    experiment,
    export,
    interrupt,
    rank_processes,
    until,
)

STEPS = 400
"""So many that a run is caught mid-run however fast it is."""
CHECKPOINT = {"everySteps": 20, "everySeconds": 0, "keepLast": 3, "result": "Last"}


def status(story):
    return story.object("FineTuneExperiment").get("status", {})


def checkpoint(story):
    """Return the newest verified checkpoint that the status tells of, once it is mid-run."""
    latest = (status(story).get("checkpoints") or {}).get("latest")
    return latest if latest and latest["step"] < STEPS / 2 else None


def steps_told(story):
    """Return the steps of the present attempt that rank 0 has told its pod of."""
    for path in story.work_dir.glob("**/ranks-*/progress.json"):
        with suppress(OSError):
            told = json.loads(path.read_bytes())
            return told["step"] - (told.get("firstStep") or 0)
    return 0


async def undisturbed(folder, inputs):
    """Return the weights of a run that nothing disturbed."""
    story = LocalStory(folder, inputs)
    story.add(dataset(), experiment(steps=STEPS, checkpoint=CHECKPOINT))
    assert await story.run() == 0, story.log()
    return story.weights()


async def test_three_manifests_in_any_order_become_a_verified_model(story):
    story.add(experiment(steps=10, compute={"gpusPerNode": 0}), export())
    async with story.running() as (run, task):
        await until(
            lambda: (
                story.condition("FineTuneExperiment", "DependenciesReady").get("reason")
                == "DependencyNotFound"
            ),
            run,
            task,
        )
        story.add(dataset())
        assert await task == 0, story.log()
    assert story.condition("ModelExport", "Ready")["status"] == "True"
    model = story.work_dir / "claims" / "published" / "model"
    assert {"config.json", "manifest.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in model.rglob("*")
    }


@pytest.mark.timeout(600)
async def test_ctrl_c_a_damaged_checkpoint_and_a_killed_rank_cost_no_bit_of_the_result(
    story, inputs, tmp_path
):
    story.add(dataset(), experiment(steps=STEPS, checkpoint=CHECKPOINT))
    async with story.running() as (run, task):
        await until(lambda: checkpoint(story), run, task)
        interrupt()
        assert await task == INTERRUPTED, story.log()
    assert story.condition("FineTuneExperiment", "Suspended")["status"] == "True"
    assert not rank_processes(story.work_dir)

    newest = status(story)["checkpoints"]["latest"]
    weights = next(story.path(newest["uri"]).glob("trainable-*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)

    async with story.running() as (run, task):
        await until(lambda: steps_told(story) > 0, run, task)
        ranks = rank_processes(story.work_dir)
        for rank in ranks:  # until the operator has asked how far they are
            os.kill(rank, signal.SIGSTOP)
        told = steps_told(story)
        await until(lambda: steps_done(story) >= told, run, task)
        os.kill(ranks[0], signal.SIGKILL)
        for rank in ranks[1:]:
            os.kill(rank, signal.SIGCONT)
        assert await task == 0, story.log()
    ended = status(story)
    assert ended["checkpoints"]["quarantined"] == 1
    assert ended["attempt"]["number"] == 3
    assert ended["restarts"]["unknown"] + ended["restarts"]["peerLost"] == 1
    assert_tells_what_the_faults_cost(ended)
    assert story.weights() == await undisturbed(tmp_path / "undisturbed", inputs)


def steps_done(story):
    """Return the steps of the second attempt that the status tells of."""
    progress = status(story).get("progress") or {}
    first = progress.get("firstStep") if status(story)["attempt"]["number"] == 2 else None
    return 0 if first is None else progress["step"] - first


def assert_tells_what_the_faults_cost(ended):
    """Check the steps lost, the useful time and the time to recover of all attempts."""
    last, killed, stopped = (one for one in ended["history"] if one["stage"] == "attempt")
    assert (stopped["firstStep"], last["lastStep"]) == (0, STEPS)
    told = ended["efficiency"]
    lost = [stopped["lastStep"] - killed["firstStep"], killed["lastStep"] - last["firstStep"]]
    assert min(lost) >= 0
    assert lost[0] > 0, "the checkpoint of the stop was damaged"
    assert told["lostSteps"] == sum(lost)
    assert told["recoverySeconds"] == killed["recoverySeconds"] > 0
    assert 0 < told["trainingRatio"] <= 1
    assert 0 < told["trainedSeconds"] <= stopped["stepSeconds"] + killed["stepSeconds"]
