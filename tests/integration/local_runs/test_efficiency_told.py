"""A run that is killed tells what that cost: steps lost, useful time, time to recover."""

from __future__ import annotations

import os
import signal

from local_story import dataset, experiment, rank_processes, until

STEPS = 1200
"""So many that progress is asked for several times before the end."""


def mid_run(story):
    """Return the progress of a run that has a checkpoint and goes on beyond it."""
    status = story.object("FineTuneExperiment").get("status", {})
    latest = (status.get("checkpoints") or {}).get("latest") or {}
    progress = status.get("progress") or {}
    return progress if 0 < latest.get("step", 0) < progress.get("step", 0) < STEPS / 2 else None


async def test_a_killed_rank_is_told_in_lost_steps_and_seconds(story):
    story.add(dataset(), experiment(steps=STEPS, checkpoint={"everySteps": 25, "everySeconds": 0}))
    async with story.running() as (run, task):
        await until(lambda: mid_run(story), run, task)
        os.kill(rank_processes(story.work_dir)[0], signal.SIGKILL)
        assert await task == 0, story.log()
    status = story.object("FineTuneExperiment")["status"]
    last, killed = status["history"][:2]
    told = status["efficiency"]
    assert (killed["firstStep"], last["lastStep"]) == (0, status["progress"]["totalSteps"])
    assert told["lostSteps"] == killed["lastStep"] - last["firstStep"] >= 0
    assert told["recoverySeconds"] == killed["recoverySeconds"] > 0
    assert 0 < told["trainingRatio"] <= 1
    assert 0 < told["trainedSeconds"] <= killed["stepSeconds"]
