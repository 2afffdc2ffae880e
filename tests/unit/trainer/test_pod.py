"""The launcher over its rank processes, played by small programs."""

from __future__ import annotations

import threading
import time

import pytest

from finetune_api.run_config import TrainingConfig
from finetune_trainer import launch
from finetune_trainer.launch import Pod
from finetune_trainer.rank_folder import RankFolder

CONFIG = {
    "identity": {
        "kind": "FineTuneExperiment",
        "namespace": "lab",
        "name": "toy",
        "uid": "u",
        "revision": 1,
        "attempt": 1,
    },
    "dataset": {"name": "d", "digest": "sha256:" + "a" * 64},
    "model": {"name": "m"},
    "plan": {
        "template": "Raw",
        "computeDtype": "Float32",
        "strategy": "DDP",
        "gpus": 0,
        "ranks": 2,
        "maxLength": 8,
        "perDeviceBatchSize": 1,
        "globalBatchSize": 2,
        "maxTokensPerDevice": 8,
        "stepsPerEpoch": 1,
        "totalSteps": 1,
        "warmupSteps": 0,
        "seed": 1,
        "epochs": 1.0,
        "learningRate": 0.1,
    },
    "prepared_uri": "pvc://c/p",
    "prepared_digest": "sha256:" + "a" * 64,
    "location": {},
    "prefix": "p",
    "ranks": 2,
    "grain": 2,
}
START = """
import json, os, pathlib, signal, sys, time
rank = int(os.environ["RANK"])
folder = pathlib.Path(os.environ["FINETUNE_RANK_FOLDER"])
def end(kind, code, step=0):
    ending = {"class": kind, "rank": rank, "step": step}
    (folder / f"ending-{rank}.json").write_text(json.dumps(ending))
    sys.exit(code)
def beat():
    import struct
    (folder / f"heartbeat-{rank}").write_bytes(struct.pack("=dddQ", time.monotonic(), 0, 0, 3))
"""


@pytest.fixture
def pod(tmp_path, monkeypatch):
    monkeypatch.setenv("PET_NPROC_PER_NODE", "2")
    monkeypatch.setattr(launch, "ECHO_SECONDS", 0.3)
    monkeypatch.setattr(launch, "STACKS_SECONDS", 0.0)

    def playing(program: str, hang_timeout: int = 0) -> Pod:
        monkeypatch.setattr(launch, "RANK_PROGRAM", ("-S", "-c", START + program))
        spec = {
            "model": {"name": "m"},
            "dataset": {"name": "d"},
            "runPolicy": {"hangTimeoutSeconds": hang_timeout},
        }
        config = TrainingConfig.model_validate(CONFIG | {"spec": spec}, strict=False)
        made = Pod(config, RankFolder(tmp_path))
        made.start()
        return made

    return playing


def test_ranks_that_complete_end_the_pod_as_completed(pod):
    assert pod("end('Completed', 0, step=9)").outcome().step == 9


def test_a_failed_rank_ends_the_pod_and_its_class_survives(pod):
    outcome = pod("end('NotFinite', 22, step=4) if rank else time.sleep(600)").outcome()
    assert (outcome.failure_class, outcome.rank, outcome.step) == ("NotFinite", 1, 4)


def test_a_killed_rank_is_unknown_and_its_peer_is_an_echo(pod):
    outcome = pod("os.kill(os.getpid(), signal.SIGKILL) if rank else end('PeerLost', 40)").outcome()
    assert (outcome.failure_class, outcome.rank) == ("Unknown", 1)
    assert "signal 9" in outcome.message


def test_a_rank_that_hangs_is_ended_as_peer_lost_by_a_hang(pod):
    outcome = pod("beat(); time.sleep(600)", hang_timeout=1).outcome()
    assert (outcome.failure_class, outcome.reason, outcome.step) == ("PeerLost", "Hang", 3)
    assert "stacks" in outcome.message


def test_a_stop_reaches_every_rank_and_is_waited_for(pod):
    made = pod(
        "signal.signal(signal.SIGTERM, lambda *_: end('Checkpointed', 75, 5)); beat()\n"
        "while True: time.sleep(0.05)"
    )
    while not all(made.pulse(rank).beat for rank in (0, 1)):
        time.sleep(0.02)
    threading.Timer(0.1, made.stop).start()
    assert made.outcome().failure_class == "Checkpointed"


def test_a_stop_while_ranks_still_load_is_no_failure(pod):
    made = pod("beat(); time.sleep(600)")
    while not all(made.pulse(rank).beat for rank in (0, 1)):
        time.sleep(0.02)
    made.stop()
    assert made.outcome().failure_class == "Checkpointed"


def test_every_rank_gets_the_variables_of_torchrun(pod, tmp_path, monkeypatch):
    monkeypatch.setenv("PET_NNODES", "3")
    monkeypatch.setenv("PET_NODE_RANK", "2")
    monkeypatch.setenv("MASTER_ADDR", "toy-a1-0.toy")
    monkeypatch.setenv("MASTER_PORT", "29500")
    names = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE GROUP_RANK MASTER_ADDR MASTER_PORT"
    made = pod(
        f"seen = [os.environ[name] for name in '{names}'.split()]\n"
        "(folder / f'seen-{rank}').write_text(' '.join(seen)); end('Completed', 0)"
    )
    made.outcome()
    assert list(made.ranks) == [4, 5]
    assert (tmp_path / "seen-4").read_text() == "4 0 6 2 2 toy-a1-0.toy 29500"
    assert (tmp_path / "seen-5").read_text() == "5 1 6 2 2 toy-a1-0.toy 29500"
