"""Steps that are lost, time that is useful and time to recover are told by every run."""

from __future__ import annotations

from dataclasses import replace

from builders import ended_pod, outcome, pod
from finetune_api.run_outcome import FailureClass
from finetune_api.run_progress import Progress
from good_ends import trained
from played_run import PlayedRun


def test_an_undisturbed_run_loses_nothing() -> None:
    run = PlayedRun()
    run.begins()
    run.trains(1, 0, 1.0, seconds=60)
    run.trains(100, 0, 90.0, seconds=60)
    assert run.told == (0.75, 0, None)


def test_nothing_is_told_before_the_first_step() -> None:
    run = PlayedRun()
    run.begins()
    run.step(run.attempt(progress=Progress(run="uid-experiment/1", phase="Starting")), seconds=30)
    assert run.status.efficiency is None


def test_steps_beyond_the_checkpoint_are_lost_and_their_seconds_do_not_count() -> None:
    run = PlayedRun()
    run.begins()
    run.trains(60, 0, 60.0, seconds=100)
    run.dies(seconds=5)
    assert run.status.history[0].last_step == 60
    run.begins()
    run.trains(45, 40, 5.0, seconds=20)
    ratio, lost, recovery = run.told
    assert (lost, recovery) == (20, None)
    assert ratio == round((40 + 5) / (105 + 20), 3)
    run.trains(61, 40, 21.0, seconds=15)
    assert run.told == (round((40 + 21) / 140, 3), 20, 40.0)
    assert run.status.history[0].recovery_seconds == 40


def test_what_is_lost_is_counted_once_however_often_it_is_looked_at() -> None:
    run = PlayedRun()
    run.begins()
    run.trains(60, 0, 60.0, seconds=100)
    run.dies()
    run.begins()
    for step in (41, 50, 60, 70):
        assert run.trains(step, 40, step - 40.0, seconds=10).efficiency.lost_steps == 20


def test_a_rank_that_still_spoke_tells_more_than_the_last_progress() -> None:
    run = PlayedRun()
    run.begins()
    run.trains(60, 0, 60.0, seconds=100)
    said = outcome(FailureClass.UNKNOWN, step=64, first_step=0, step_seconds=64.0)
    run.dies(outcome=said)
    run.begins()
    run.trains(41, 40, 1.0, seconds=10)
    assert run.told[1] == 24


def test_two_restarts_add_up_and_a_typical_time_to_recover_is_told() -> None:
    run = PlayedRun()
    run.begins()
    run.trains(20, 0, 20.0, seconds=50)
    run.dies()
    run.begins()
    run.trains(12, 10, 2.0, seconds=10)
    run.trains(30, 10, 20.0, seconds=10)
    run.dies()
    run.begins(seconds=60)
    run.trains(26, 25, 1.0, seconds=20)
    run.trains(31, 25, 6.0, seconds=10)
    assert run.told[1:] == (10 + 5, (20 + 90) / 2)
    assert run.status.efficiency.trained_seconds == 10 + 15


def test_a_rollback_inside_an_attempt_loses_steps_too() -> None:
    run = PlayedRun()
    run.begins()
    run.trains(60, 0, 60.0, seconds=100)
    run.trains(41, 0, 41.0, seconds=10)
    assert run.told[1] == 19


def test_a_suspension_costs_nothing() -> None:
    run = PlayedRun()
    run.begins()
    run.trains(50, 0, 50.0, seconds=100)
    waiting = run.seen.object.spec.run_policy
    resumed = run.seen
    paused = waiting.model_copy(update={"suspend": True})
    spec = resumed.object.spec.model_copy(update={"run_policy": paused})
    run.seen = replace(resumed, object=resumed.object.model_copy(update={"spec": spec}))
    run.step(run.attempt())
    run.step(run.attempt(ended_pod(0, FailureClass.CHECKPOINTED), gone=True))
    spec = resumed.object.spec.model_copy(update={"run_policy": waiting})
    status = run.status
    run.seen = replace(
        run.seen, object=resumed.object.model_copy(update={"spec": spec, "status": status})
    )
    run.begins(seconds=3600)
    run.trains(60, 50, 10.0, seconds=20)
    assert run.told == (round(60 / 120, 3), 0, None)


def test_an_attempt_whose_queue_stopped_it_goes_on_where_its_checkpoint_was() -> None:
    run = PlayedRun()
    run.begins()
    run.trains(50, 0, 50.0, seconds=100)
    run.step(run.attempt(progress=Progress(run="uid-experiment/1", phase="Starting")), seconds=5)
    assert run.status.progress.step == 50
    run.trains(46, 45, 1.0, seconds=5)
    assert run.told[1] == 5
    assert run.status.efficiency.trained_seconds == 45


def test_a_finished_run_keeps_its_figures() -> None:
    run = PlayedRun()
    run.begins()
    run.trains(90, 0, 45.0, seconds=60)
    said = trained().model_copy(update={"first_step": 0, "step_seconds": 50.0})
    ends = ended_pod(0, FailureClass.COMPLETED, outcome=said), pod(1, "Succeeded", exit_code=0)
    run.step(run.attempt(*ends, complete=True), seconds=40)
    assert run.told == (0.5, 0, None)


def test_a_run_too_short_to_be_asked_tells_its_figures_at_its_end() -> None:
    run = PlayedRun()
    run.begins()
    said = trained().model_copy(update={"first_step": 0, "step_seconds": 15.0})
    ends = ended_pod(0, FailureClass.COMPLETED, outcome=said), pod(1, "Succeeded", exit_code=0)
    run.step(run.attempt(*ends, complete=True), seconds=20)
    assert run.told == (0.75, 0, None)
