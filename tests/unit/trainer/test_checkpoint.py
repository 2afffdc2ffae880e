"""Checkpoints in storage: round trip, fencing, retention, and whose they are."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest
import torch

from finetune_api.run_outcome import CheckpointRef
from finetune_trainer import path_store
from finetune_trainer.checkpoint import (
    OPTIMIZER,
    TRAINABLE,
    Checkpoints,
    Parts,
    Place,
    RunIdentity,
    Snapshot,
)
from finetune_trainer.errors import ExternalServiceError, PeerLostError
from finetune_trainer.path_store import PathStore
from finetune_trainer.pieces import Piece, fill, whole
from finetune_trainer.tensor_file import read_tensors, tensor_file

IDENTITY = RunIdentity(uid="u", revision=1, attempt=1, plan="sha256:p")


ALONE = Parts()


def snapshot(step: int) -> Snapshot:
    return Snapshot(
        step=step,
        weights=[whole("w", torch.full((2, 3), float(step)))],
        moments=[whole("w.step", torch.tensor(float(step))), whole("w.exp_avg", torch.ones(2, 3))],
        state={"step": step, "record": {}},
        files={"adapter_config.json": b"{}"},
    )


def write(checkpoints: Checkpoints, step: int, parts: Parts = ALONE) -> CheckpointRef:
    """Write a checkpoint and return what is known of it."""
    checkpoints.write(snapshot(step), parts)
    return checkpoints.written()[step]


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
    pieces = [whole(name, tensor) for name, tensor in tensors.items()]
    read = read_tensors(b"".join(tensor_file(pieces, {"step": "1"})))
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


def test_the_newest_checkpoint_comes_back_as_it_was(store):
    writer = Checkpoints(store, IDENTITY)
    for step in (2, 10):
        ref = write(writer, step)
    reader = Checkpoints(store, replace(IDENTITY, attempt=2))
    restored = reader.newest([ref])
    assert restored.ref == ref
    assert restored.state["step"] == 10
    targets = {
        one.name: whole(one.name, torch.zeros_like(one.tensor))
        for one in (*snapshot(10).weights, *snapshot(10).moments)
    }
    (weight,) = reader.pieces(restored.path, TRAINABLE, ref.digest)(targets)
    assert torch.equal(weight.tensor, torch.full((2, 3), 10.0))
    moments = reader.pieces(restored.path, OPTIMIZER, ref.digest)(targets)
    assert {one.name for one in moments} == {"w.step", "w.exp_avg"}
    assert reader.newest([], step=2).ref.step == 2


def part(rank, step=2):
    """Return what one of two ranks saves: its two rows of a tensor of four."""
    rows = Piece("w", torch.full((2, 3), float(rank)), (4, 3), 2 * rank)
    return replace(snapshot(step), weights=[rows], moments=[])


def flipped(folder, name):
    path = folder / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "another manifest"])
def test_each_rank_verifies_the_files_it_takes_rows_from_and_no_others(store, tmp_path, damage):
    """Rank 0 found the checkpoint whole; the storage may give another node other bytes."""
    writer = Checkpoints(store, IDENTITY)
    writer.write(part(0), Parts(2, lambda: writer.write_part(part(1), 1, 2)))
    [ref] = writer.written().values()
    path = Place(2, IDENTITY.attempt, IDENTITY.run).path
    name = "trainable-00001-of-00002.safetensors"
    file = tmp_path / path / name
    if damage == "flipped":
        flipped(tmp_path / path, name)
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-3])
    elif damage == "gone":
        file.unlink()

    def read(first):
        target = Piece("w", torch.zeros(2, 3), (4, 3), first)
        digest = "sha256:other" if damage == "another manifest" else ref.digest
        fill({"w": target}, writer.pieces(path, TRAINABLE, digest))
        return target.tensor

    with pytest.raises(ExternalServiceError):
        read(2)
    if damage == "flipped":
        assert torch.equal(read(0), torch.zeros(2, 3))


@pytest.mark.parametrize(
    "other",
    [{"plan": "sha256:q"}, {"revision": 2}, {"uid": "v"}],
    ids=["plan", "revision", "object"],
)
def test_a_checkpoint_of_another_run_is_neither_resumed_nor_set_aside(store, other):
    write(Checkpoints(store, IDENTITY), 2)
    reader = Checkpoints(store, replace(IDENTITY, **other))
    assert reader.newest([]) is None
    assert reader.quarantined == []


def test_each_run_of_an_attempt_writes_into_its_own_folder(store):
    first = write(Checkpoints(store, IDENTITY), 2)
    second = write(Checkpoints(store, IDENTITY), 2)
    assert first.uri != second.uri


def test_an_old_attempt_stops_writing_when_a_newer_one_has_begun(store):
    old = Checkpoints(store, IDENTITY)
    write(Checkpoints(store, replace(IDENTITY, attempt=2)), 4)
    with pytest.raises(PeerLostError, match="attempt 2 has begun"):
        write(old, 3)


def test_the_leftovers_of_an_interrupted_write_are_replaced(store):
    writer = Checkpoints(store, IDENTITY)
    store.write("checkpoints/attempt-1.0/step-2/state.json", b"half")
    write(writer, 2)
    assert Checkpoints(store, IDENTITY).newest([]).state["step"] == 2


def test_retention_keeps_the_last_and_the_named_ones(store, tmp_path):
    writer = Checkpoints(store, IDENTITY)
    for step in range(1, 7):
        write(writer, step)
    writer.retain(2, [3])
    assert steps(store) == [3, 5, 6]
    folders = (tmp_path / "checkpoints" / "attempt-1.0").iterdir()
    assert sorted(folder.name for folder in folders) == ["step-3", "step-5", "step-6"]
    assert list(writer.written()) == [3, 5, 6]


def test_retention_leaves_other_revisions_alone(store):
    write(Checkpoints(store, IDENTITY), 9)
    later = Checkpoints(store, replace(IDENTITY, revision=2, attempt=2))
    write(later, 1)
    write(later, 2)
    later.retain(1, [])
    assert steps(store) == [2, 9]


def test_storage_that_cannot_be_listed_is_an_outage_and_no_fresh_start(store, monkeypatch):
    write(Checkpoints(store, IDENTITY), 2)
    reader = Checkpoints(store, IDENTITY)

    def broken(*_):
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(path_store.os, "scandir", broken)
    with pytest.raises(ExternalServiceError):
        reader.newest([])
    with pytest.raises(ExternalServiceError):
        Checkpoints(store, IDENTITY)


def test_a_checkpoint_of_several_ranks_exists_once_all_have_written(store):
    first, second = Checkpoints(store, IDENTITY), Checkpoints(store, IDENTITY, run=0)

    def others():
        assert steps(store) == []
        return second.write_part(snapshot(4), 1, 2)

    write(first, 4, Parts(2, others))
    names = {name.rpartition("/")[2] for name in store.list("checkpoints/")}
    assert {"trainable-00000-of-00002.safetensors", "trainable-00001-of-00002.safetensors"} <= names
    assert steps(store) == [4]
    assert Checkpoints(store, IDENTITY).newest([]).ref.step == 4


def test_a_part_that_changed_before_the_manifest_is_found_when_it_is_read(store, tmp_path):
    first, second = Checkpoints(store, IDENTITY), Checkpoints(store, IDENTITY, run=0)
    write(first, 4, Parts(2, lambda: second.write_part(snapshot(4), 1, 2)))
    (part,) = tmp_path.rglob("optimizer-00001-of-00002.safetensors")
    part.write_bytes(part.read_bytes()[:-1] + b"!")
    reader = Checkpoints(store, IDENTITY)
    assert reader.newest([]) is None
    assert len(reader.quarantined) == 1


def test_retention_sweeps_what_earlier_runs_left_without_a_manifest(store):
    store.write("checkpoints/attempt-1.0/step-3/state.json", b"half")
    later = Checkpoints(store, replace(IDENTITY, attempt=2))
    store.write("checkpoints/attempt-2.0/step-5/state.json", b"being written")
    write(later, 4)
    later.retain(2, [])
    names = store.list("checkpoints/")
    assert not any(name.startswith("checkpoints/attempt-1.0/") for name in names)
    assert "checkpoints/attempt-2.0/step-5/state.json" in names


def test_a_step_that_is_taken_again_replaces_its_checkpoint(store):
    writer = Checkpoints(store, IDENTITY)
    assert write(writer, 4) == write(writer, 4)
    assert Checkpoints(store, IDENTITY).newest([]).ref.step == 4
