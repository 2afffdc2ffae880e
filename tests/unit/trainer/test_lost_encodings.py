"""Shared encodings that are gone, damaged, half-written or in the way: no run fails by them."""

from __future__ import annotations

import pytest

from finetune_api.prune_messages import PruneRequest
from finetune_trainer import prune
from finetune_trainer.deletion_note import note_deletion_policy
from finetune_trainer.encoding_places import target
from finetune_trainer.errors import ResourcesExhaustedError
from finetune_trainer.path_store import PathStore
from finetune_trainer.shared_encodings import SharedEncodings
from finetune_trainer.store import MANIFEST, open_store
from sharing_runs import UID


def rewritten(store, name, content):
    store.delete(name)
    store.write(name, content)


def without_manifest(runs):
    runs.store(1).delete(f"encoded-1-1-train/{MANIFEST}")


def without_tokens(runs):
    runs.store(1).delete("encoded-1-1-train/tokens-0")


def with_a_wrong_byte(runs):
    store, name = runs.store(1), "encoded-1-1-train/tokens-0"
    tokens = store.read(name)
    rewritten(store, name, bytes([tokens[0] ^ 1]) + tokens[1:])


def with_another_manifest(runs):
    store = runs.store(1)
    content = store.read(f"encoded-1-1-train/{MANIFEST}")
    rewritten(store, f"encoded-1-1-train/{MANIFEST}", content + b" ")


def gone(runs):
    for name in runs.store(1).list():
        runs.store(1).delete(name)


@pytest.mark.parametrize(
    "harmed",
    [without_manifest, without_tokens, with_a_wrong_byte, with_another_manifest, gone],
)
def test_what_cannot_be_read_is_made_again_and_kept(anywhere, harmed):
    _, files, _ = anywhere.prepared(1)
    harmed(anywhere)
    tokenised, same, _ = anywhere.prepared(2)
    assert tokenised == (60 if harmed is gone else 57)
    assert same == files
    assert "encoded-1-1-train" in anywhere.encoded(2)
    assert anywhere.prepared(3)[0] == 0


def test_encodings_of_other_records_are_not_taken_for_those_of_a_key(runs):
    _, files, _ = runs.prepared(1)
    (train,), (validation,) = runs.pointers(), runs.pointers("validation")
    root, store = open_store(runs.location), runs.store(1)
    for name in store.list("encoded-1-1-validation/"):
        rewritten(store, name.replace("validation", "train"), store.read(name))
    rewritten(root, train, root.read(validation))
    tokenised, same, _ = runs.prepared(2)
    assert (tokenised, same) == (57, files)


def test_what_a_killed_writer_left_is_in_nobodys_way(anywhere):
    anywhere.store(1).write("encoded-1-1-train/tokens-0", b"half")
    assert anywhere.prepared(1)[0] == 60
    assert "encoded-1-1-train.1" in anywhere.encoded(1)
    assert anywhere.prepared(2)[0] == 0


def test_of_two_at_a_time_the_quicker_one_keeps(runs, monkeypatch):
    keep, others = SharedEncodings.keep, [2]

    def overtaken(shared):
        if others:
            runs.prepared(others.pop())
        keep(shared)

    monkeypatch.setattr(SharedEncodings, "keep", overtaken)
    runs.prepared(1)
    assert (runs.encoded(1), len(runs.encoded(2))) == ([], 2)


def test_two_pods_of_one_attempt_leave_one_whole_encoding(runs, monkeypatch):
    write = PathStore.write

    def overtaken(store, name, data):
        if name == "tokens-0" and "encoded-1-1-train" in store.uri:
            monkeypatch.setattr(PathStore, "write", write)
            runs.prepared(1)
        return write(store, name, data)

    monkeypatch.setattr(PathStore, "write", overtaken)
    runs.prepared(1)
    assert runs.encoded(1) == ["encoded-1-1-train", "encoded-1-1-validation"]
    assert runs.prepared(2)[0] == 0


def test_storage_without_room_for_encodings_harms_no_run(runs, monkeypatch):
    write = PathStore.write

    def full(store, name, data):
        if name == "turns-0":
            raise ResourcesExhaustedError("no space left", reason="NoSpace")
        return write(store, name, data)

    monkeypatch.setattr(PathStore, "write", full)
    assert runs.prepared(1)[0] == 60
    assert (runs.encoded(1), runs.pointers()) == ([], [])


def test_storage_that_refuses_to_list_encodings_harms_no_run(runs, monkeypatch):
    listed = PathStore.list

    def refused(store, prefix=""):
        if prefix.startswith("encodings/"):
            raise ResourcesExhaustedError("permission denied", reason="StorageUnavailable")
        return listed(store, prefix)

    runs.prepared(1)
    monkeypatch.setattr(PathStore, "list", refused)
    assert runs.prepared(2)[0] == 60


KEY = "0" * 64


@pytest.mark.parametrize(
    ("pointer", "expected"),
    [
        (f"encodings/{KEY}/a-1/encoded-1-1-train", "a-1/encoded-1-1-train"),
        (f"encodings/{KEY}/a-1/encoded-2-3-test.4", "a-1/encoded-2-3-test.4"),
        (f"encodings/{KEY}/../encoded-1-1-train", None),
        (f"encodings/{KEY}/../other/encoded-1-1-train", None),
        (f"encodings/{KEY}/a-1/../encoded-1-1-train", None),
        (f"encodings/{KEY}/a-1/prepared-1-1", None),
        (f"encodings/{KEY}/a-1/encoded-1-1-train/manifest.json", None),
        (f"encodings/{KEY}/a-1/encoded-1-1-train\n", None),
        ("encodings/short/a-1/encoded-1-1-train", None),
    ],
)
def test_no_pointer_leads_out_of_its_namespace(pointer, expected):
    assert target(pointer) == expected


def test_names_that_are_no_pointers_are_not_followed(runs):
    runs.prepared(1)
    (pointer,) = runs.pointers()
    folder = pointer.rpartition(f"/run-1-{UID.format(1)}/")[0]
    open_store(runs.location).write(f"{folder}/0/secret", b"x")
    assert runs.prepared(2)[0] == 0


def test_delete_takes_the_encodings_with_the_experiment(anywhere):
    spec = {"storage": {"deletionPolicy": "Delete"}}
    anywhere.prepared(1, **spec)
    note_deletion_policy(anywhere.config(1, **spec))
    request = PruneRequest(
        location=anywhere.location, stale_seconds=1e-9, folders=[anywhere.home(1)]
    )
    prune.removed(request)
    assert anywhere.store(1).list() == []
    found = prune.found(PruneRequest(location=anywhere.location, stale_seconds=1e-9))
    assert [one.name for one in found.leftovers] == sorted(
        anywhere.pointers() + anywhere.pointers("validation")
    )
    assert anywhere.prepared(2)[0] == 60
    prune.removed(request.model_copy(update={"folders": [], "leftovers": found.leftovers}))
    assert [name.split("/")[4] for name in anywhere.pointers()] == [f"run-2-{UID.format(2)}"]
    assert anywhere.prepared(3)[0] == 0


def test_half_written_encodings_are_leftovers_and_whole_ones_are_not(anywhere):
    half = "encoded-1-1-train/"
    anywhere.store(1).write(f"{half}tokens-0", b"half")
    anywhere.prepared(1)
    look = PruneRequest(location=anywhere.location, stale_seconds=1e-9)
    found = prune.found(look)
    assert [one.name for one in found.leftovers] == [f"{anywhere.home(1)}/{half}"]
    prune.removed(look.model_copy(update={"leftovers": found.leftovers}))
    assert anywhere.encoded(1) == ["encoded-1-1-train.1", "encoded-1-1-validation"]
