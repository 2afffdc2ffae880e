"""Checkpoints in storage: round trip, fencing, retention, and whose they are."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest
import torch

from finetune_trainer import path_store
from finetune_trainer.checkpoint import Checkpoints, RunIdentity, Snapshot
from finetune_trainer.errors import ExternalServiceError, PeerLostError
from finetune_trainer.path_store import PathStore
from finetune_trainer.tensor_file import read_tensors, tensor_file

IDENTITY = RunIdentity(uid="u", revision=1, attempt=1, plan="sha256:p")


def snapshot(step: int) -> Snapshot:
    return Snapshot(
        step=step,
        weights={"w": torch.full((2, 3), float(step))},
        moments={"w.step": torch.tensor(float(step)), "w.exp_avg": torch.ones(2, 3)},
        state={"step": step, "record": {}},
        adapter={"peft_type": "LORA"},
    )


@pytest.fixture
def store(tmp_path):
    return PathStore(tmp_path, "pvc://results/run")


def steps(store) -> list[int]:
    found = [name.split("step-")[1] for name in store.list("checkpoints/") if "manifest" in name]
    return sorted(int(name.split("/")[0]) for name in found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64], ids=str)
def test_tensors_survive_the_file_bit_for_bit(dtype):
    tensors = {
        "matrix": torch.arange(6).reshape(2, 3).to(dtype).T,
        "scalar": torch.tensor(3).to(dtype),
        "empty": torch.zeros(0, 4, dtype=dtype),
    }
    read = read_tensors(b"".join(tensor_file(tensors, {"step": "1"})))
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


def test_the_newest_checkpoint_comes_back_as_it_was(store):
    writer = Checkpoints(store, IDENTITY)
    for step in (2, 10):
        ref = writer.write(snapshot(step))
    restored = Checkpoints(store, replace(IDENTITY, attempt=2)).newest([ref])
    assert restored.ref == ref
    assert restored.state["step"] == 10
    assert torch.equal(restored.weights["w"], torch.full((2, 3), 10.0))
    assert restored.moments.keys() == {"w.step", "w.exp_avg"}


@pytest.mark.parametrize(
    "other",
    [{"plan": "sha256:q"}, {"revision": 2}, {"uid": "v"}],
    ids=["plan", "revision", "object"],
)
def test_a_checkpoint_of_another_run_is_neither_resumed_nor_set_aside(store, other):
    Checkpoints(store, IDENTITY).write(snapshot(2))
    reader = Checkpoints(store, replace(IDENTITY, **other))
    assert reader.newest([]) is None
    assert reader.quarantined == []


def test_each_run_of_an_attempt_writes_into_its_own_folder(store):
    first = Checkpoints(store, IDENTITY).write(snapshot(2))
    second = Checkpoints(store, IDENTITY).write(snapshot(2))
    assert first.uri != second.uri


def test_an_old_attempt_stops_writing_when_a_newer_one_has_begun(store):
    old = Checkpoints(store, IDENTITY)
    Checkpoints(store, replace(IDENTITY, attempt=2)).write(snapshot(4))
    with pytest.raises(PeerLostError, match="attempt 2 has begun"):
        old.write(snapshot(3))


def test_the_leftovers_of_an_interrupted_write_are_replaced(store):
    writer = Checkpoints(store, IDENTITY)
    store.write("checkpoints/attempt-1.0/step-2/state.json", b"half")
    writer.write(snapshot(2))
    assert Checkpoints(store, IDENTITY).newest([]).state["step"] == 2


def test_retention_keeps_the_last_and_the_named_ones(store, tmp_path):
    writer = Checkpoints(store, IDENTITY)
    for step in range(1, 7):
        writer.write(snapshot(step))
    writer.retain(2, [3])
    assert steps(store) == [3, 5, 6]
    folders = (tmp_path / "checkpoints" / "attempt-1.0").iterdir()
    assert sorted(folder.name for folder in folders) == ["step-3", "step-5", "step-6"]
    assert list(writer.written()) == [3, 5, 6]


def test_retention_leaves_other_revisions_alone(store):
    Checkpoints(store, IDENTITY).write(snapshot(9))
    later = Checkpoints(store, replace(IDENTITY, revision=2, attempt=2))
    later.write(snapshot(1))
    later.write(snapshot(2))
    later.retain(1, [])
    assert steps(store) == [2, 9]


def test_storage_that_cannot_be_listed_is_an_outage_and_no_fresh_start(store, monkeypatch):
    Checkpoints(store, IDENTITY).write(snapshot(2))
    reader = Checkpoints(store, IDENTITY)

    def broken(*_):
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(path_store.os, "scandir", broken)
    with pytest.raises(ExternalServiceError):
        reader.newest([])
    with pytest.raises(ExternalServiceError):
        Checkpoints(store, IDENTITY)
