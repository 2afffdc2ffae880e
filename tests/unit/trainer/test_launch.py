"""What a pod makes of the ends of its ranks: first cause, hangs, signals, memory."""

from __future__ import annotations

import signal

import pytest

from finetune_api.run_outcome import FailureClass, Outcome
from finetune_trainer import cores, first_cause, launch
from finetune_trainer.first_cause import out_of_memory_kills, outcome_of_exit
from finetune_trainer.rank_folder import RankFolder
from finetune_trainer.watchdog import FORM, Heartbeat, Pulse, pulse


def ended(**classes: FailureClass):
    return {
        int(rank.removeprefix("rank")): Outcome(failure_class=one, rank=int(rank[-1]))
        for rank, one in classes.items()
    }


F = FailureClass


@pytest.mark.parametrize(
    ("outcomes", "rank"),
    [
        pytest.param(ended(rank0=F.PEER_LOST, rank1=F.DATA), 1, id="data before its echo"),
        pytest.param(ended(rank0=F.PEER_LOST, rank1=F.UNKNOWN), 1, id="a kill before its echo"),
        pytest.param(ended(rank0=F.COMPLETED, rank1=F.COMPLETED), 0, id="rank 0 when all is well"),
        pytest.param(ended(rank0=F.CHECKPOINTED, rank1=F.UNKNOWN), 0, id="the saved end of rank 0"),
        pytest.param(
            ended(rank0=F.CHECKPOINTED, rank1=F.NOT_FINITE), 1, id="divergence before a stop"
        ),
        pytest.param(ended(rank0=F.COMPLETED, rank1=F.PEER_LOST), 1, id="a failure is not hidden"),
    ],
)
def test_the_first_cause_wins_over_its_echoes(outcomes, rank):
    assert first_cause.first_cause(outcomes).rank == rank


@pytest.mark.parametrize(
    ("code", "killed", "failure"),
    [
        (-signal.SIGKILL, True, F.RESOURCES_EXHAUSTED),
        (-signal.SIGKILL, False, F.UNKNOWN),
        (-signal.SIGABRT, False, F.PEER_LOST),
        (-signal.SIGSEGV, True, F.UNKNOWN),
        (1, False, F.UNKNOWN),
    ],
)
def test_a_rank_without_last_word_is_classified_by_how_it_ended(code, killed, failure):
    outcome = outcome_of_exit(3, code, 12, out_of_memory=killed)
    assert (outcome.failure_class, outcome.rank, outcome.step) == (failure, 3, 12)


@pytest.mark.parametrize(
    ("events", "limit"),
    [
        pytest.param("memory.events", "memory.max", id="v2"),
        pytest.param("memory/memory.oom_control", "memory/memory.limit_in_bytes", id="v1"),
    ],
)
def test_kills_for_memory_and_the_limit_are_read_from_the_control_group(
    tmp_path, monkeypatch, events, limit
):
    monkeypatch.setattr(first_cause, "MEMORY", tmp_path)
    assert out_of_memory_kills() == 0
    killed = outcome_of_exit(0, -signal.SIGKILL, 0, out_of_memory=True)
    assert "the pod's memory limit was reached" in killed.message
    (tmp_path / "memory").mkdir()
    (tmp_path / events).write_text("low 0\noom 4\noom_kill_disable 0\noom_kill 2\n")
    (tmp_path / limit).write_text(f"{784 << 20}\n")
    assert out_of_memory_kills() == 2
    killed = outcome_of_exit(0, -signal.SIGKILL, 0, out_of_memory=True)
    assert "the pod's memory limit of 784Mi was reached" in killed.message


@pytest.mark.parametrize(
    ("told", "hangs"),
    [
        pytest.param(Pulse(), False, id="still starting"),
        pytest.param(Pulse(beat=100.0), False, id="silent within the limit"),
        pytest.param(Pulse(beat=30.0), True, id="silent beyond the limit"),
        pytest.param(Pulse(beat=30.0, median_step_seconds=20.0), False, id="its steps are long"),
    ],
)
def test_a_rank_hangs_when_it_is_silent_beyond_limit_and_ten_steps(told, hangs):
    assert told.hangs(now=140.0, limit_seconds=60.0) is hangs


def test_without_a_limit_no_rank_hangs():
    assert not Pulse(beat=1.0).hangs(now=1e9, limit_seconds=0)


def test_a_heartbeat_is_read_by_another_process_as_it_was_told(tmp_path):
    beat = Heartbeat(tmp_path / "heartbeat-0")
    beat.step_done(7, 0.5)
    told = pulse(tmp_path / "heartbeat-0")
    assert (told.steps, told.median_step_seconds) == (7, 0.5)
    assert told.beat >= told.step_time > 0
    assert pulse(tmp_path / "heartbeat-1") == Pulse()


class Alive:
    """A rank process of which nothing is asked."""


def test_a_pod_tells_how_long_its_most_silent_rank_has_been_silent(tmp_path, monkeypatch):
    pod = launch.Pod(config=None, folder=RankFolder(tmp_path))
    assert pod.silent_seconds() is None
    monkeypatch.setattr(launch.time, "monotonic", lambda: 1000.0)
    for rank, beat in enumerate((990.0, 940.0, 0.0, 100.0)):
        (tmp_path / f"heartbeat-{rank}").write_bytes(FORM.pack(beat, 0.0, 0.0, 0))
    pod._processes = {rank: Alive() for rank in range(3)}  # rank 3 has ended, rank 2 is starting
    assert pod.silent_seconds() == 60.0


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max 100000", 64), ("200000 100000", 2), ("50000 100000", 1), ("9900000 100000", 64)],
)
def test_cores_follow_the_limit_of_the_pod(tmp_path, monkeypatch, limit, expected):
    monkeypatch.setattr(cores, "LIMIT", tmp_path / "cpu.max")
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: set(range(64)))
    (tmp_path / "cpu.max").write_text(limit)
    assert cores.available_cores() == expected


@pytest.mark.parametrize(("quota", "expected"), [(150000, 1), (400000, 4), (-1, 64)])
def test_cores_follow_the_limit_of_control_groups_v1(tmp_path, monkeypatch, quota, expected):
    monkeypatch.setattr(cores, "LIMIT", tmp_path / "cpu.max")
    monkeypatch.setattr(cores, "LIMIT_V1", tmp_path)
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: set(range(64)))
    (tmp_path / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu.cfs_period_us").write_text("100000\n")
    assert cores.available_cores() == expected
