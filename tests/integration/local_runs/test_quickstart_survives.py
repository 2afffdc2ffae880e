"""The quickstart's story on this machine: to the end, through kills, stops and damage."""

from __future__ import annotations

import asyncio
import os
import signal

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


def checkpoint(story):
    """Return the newest verified checkpoint that the status tells of, once it is mid-run."""
    status = story.object("FineTuneExperiment").get("status", {})
    latest = (status.get("checkpoints") or {}).get("latest")
    return latest if latest and latest["step"] < 100 else None


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, inputs):
    """Return the weights of a run that nothing disturbed."""
    story = LocalStory(tmp_path_factory.mktemp("undisturbed"), inputs)
    story.add(dataset(), experiment())
    assert asyncio.run(story.run()) == 0, story.log()
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


async def test_a_killed_rank_costs_no_bit_of_the_result(story, undisturbed):
    story.add(dataset(), experiment())
    async with story.running() as (run, task):
        await until(lambda: checkpoint(story), run, task)
        os.kill(rank_processes(story.work_dir)[-1], signal.SIGKILL)
        assert await task == 0, story.log()
    status = story.object("FineTuneExperiment")["status"]
    assert status["attempt"]["number"] == 2
    assert status["restarts"]["unknown"] + status["restarts"]["peerLost"] == 1
    assert story.weights() == undisturbed


async def test_ctrl_c_and_a_damaged_checkpoint_cost_no_bit_either(story, undisturbed):
    story.add(dataset(), experiment())
    async with story.running() as (run, task):
        await until(lambda: checkpoint(story), run, task)
        interrupt()
        assert await task == INTERRUPTED, story.log()
    assert story.condition("FineTuneExperiment", "Suspended")["status"] == "True"
    assert not rank_processes(story.work_dir)

    newest = story.object("FineTuneExperiment")["status"]["checkpoints"]["latest"]
    weights = next(story.path(newest["uri"]).glob("trainable-*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)

    assert await story.run() == 0, story.log()
    status = story.object("FineTuneExperiment")["status"]
    assert status["checkpoints"]["quarantined"] == 1
    assert story.weights() == undisturbed
