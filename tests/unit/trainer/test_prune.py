"""What deleted objects and killed writers left: found by its own marks, removed when named."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime

import pytest

from data_ground import Ground
from finetune_api.names import EXPERIMENT, storage_prefix
from finetune_api.prune_messages import Leftover, PruneRequest
from finetune_api.run_config import Identity
from finetune_api.storage import DeletionPolicy, Location, Storage
from finetune_trainer.deletion_note import note_deletion_policy
from finetune_trainer.prune import found, removed
from finetune_trainer.store import open_store
from local_web import local_web
from s3_stub import S3Stub

UID = "0f4fd9e5-1d0f-4a3b-9c54-8f3e5f2ab001"
OTHER = "0f4fd9e5-1d0f-4a3b-9c54-8f3e5f2ab002"
DAY = 86400.0
RESULTS = ("prepared-1-1/manifest.json", "checkpoints/attempt-1.0/step-4/manifest.json")


class Config:
    """What a note needs of a job's config."""

    def __init__(self, location, policy, *, uid=UID, revision=1):
        self.identity = Identity(
            kind=EXPERIMENT, namespace="ml", name="run", uid=uid, revision=revision, attempt=1
        )
        self.spec = type("Spec", (), {"storage": Storage(deletion_policy=policy)})
        self.location, self.prefix = location, prefix(uid)


def prefix(uid=UID):
    return storage_prefix(EXPERIMENT, "ml", "run", uid)


@pytest.fixture(params=["folder", "bucket"])
def location(request, tmp_path, monkeypatch):
    """A place for results, one day or more old whatever is written there."""
    ground = Ground(tmp_path, monkeypatch)
    if request.param == "folder":
        yield Location.model_validate({"volumeClaim": {"claimName": "results", "path": "a"}})
        return
    ground.secret("keys", AWS_ACCESS_KEY_ID="AKIATEST", AWS_SECRET_ACCESS_KEY="hidden")
    with local_web(S3Stub()) as web:
        s3 = {"bucket": "lake", "prefix": "a", "endpoint": web.url(""), "pathStyle": True}
        yield Location.model_validate({"s3": s3 | {"secretRef": {"name": "keys"}}})


def written(location, *names, uid=UID):
    """Write files of an object, and make them old where the storage has clocks of its own."""
    store = open_store(location, prefix(uid))
    for name in names:
        store.write(name, b"x")
    make_old()


def make_old():
    for folder, _, files in os.walk(os.environ["FINETUNE_CLAIMS_DIR"]):
        for file in files:
            os.utime(os.path.join(folder, file), (0, 0))


def noted(location, policy, **fields):
    note_deletion_policy(Config(location, policy, **fields))


def look(location, **wanted):
    return PruneRequest(location=location, stale_seconds=DAY, **wanted)


def files_of(location, uid=UID):
    return open_store(location, prefix(uid)).list()


def test_only_what_is_marked_is_found_and_only_what_is_named_is_removed(location):
    for uid in (UID, OTHER):
        written(location, *RESULTS, uid=uid)
        noted(location, DeletionPolicy.DELETE, uid=uid)
    assert [one.uid for one in found(look(location)).folders] == [UID, OTHER]
    gone = removed(look(location, folders=[prefix()]))
    assert [(one.uid, one.files) for one in gone.folders] == [(UID, 3)]
    assert files_of(location) == []
    assert len(files_of(location, OTHER)) == 3


def test_what_may_be_kept_is_not_marked_and_not_removed(location):
    written(location, *RESULTS)
    noted(location, DeletionPolicy.RETAIN)
    assert files_of(location) == sorted(RESULTS)
    assert found(look(location)).folders == []
    removed(look(location, folders=[prefix()]))
    assert files_of(location) == sorted(RESULTS)


def test_the_newest_revision_decides(location):
    noted(location, DeletionPolicy.DELETE)
    noted(location, DeletionPolicy.RETAIN, revision=2)
    assert found(look(location)).folders == []
    noted(location, DeletionPolicy.DELETE, revision=10)
    assert [one.uid for one in found(look(location)).folders] == [UID]


@pytest.mark.parametrize(
    "note",
    [
        pytest.param(b"{", id="not JSON"),
        pytest.param(b'{"policy": "Delete"}', id="of nobody"),
        pytest.param(
            json.dumps(
                {"policy": "Delete", "kind": EXPERIMENT, "namespace": "ml", "name": "run",
                 "uid": OTHER}
            ).encode(),
            id="of another object",
        ),
    ],
)  # fmt: skip
def test_a_note_that_does_not_speak_of_its_folder_marks_nothing(location, note):
    open_store(location, prefix()).write("deletion/revision-1.json", note)
    assert found(look(location)).folders == []


def test_a_removal_that_was_cut_off_is_finished_by_the_next(location, monkeypatch):
    written(location, *RESULTS)
    noted(location, DeletionPolicy.DELETE)
    store = type(open_store(location))
    delete, calls = store.delete, []

    def cut_off(self, name):
        if len(calls) == 2:
            raise OSError("the pod was killed")
        calls.append(name)
        delete(self, name)

    monkeypatch.setattr(store, "delete", cut_off)
    with pytest.raises(OSError, match="killed"):
        removed(look(location, folders=[prefix()]))
    monkeypatch.setattr(store, "delete", delete)
    assert files_of(location) == ["deletion/revision-1.json"]
    removed(look(location, folders=[prefix()]))
    assert files_of(location) == []


def test_a_checkpoint_without_a_manifest_is_a_leftover_and_a_whole_one_is_not(location):
    half = "checkpoints/attempt-1.0/step-8/"
    written(location, *RESULTS, f"{half}trainable-00000-of-00001.safetensors", "notes/mine.txt")
    [leftover] = found(look(location)).leftovers
    assert leftover == Leftover(name=f"{prefix()}/{half}")
    removed(look(location, leftovers=[leftover]))
    assert files_of(location) == sorted((*RESULTS, "notes/mine.txt"))


def test_a_file_of_somebody_else_is_no_leftover(location):
    store = open_store(location)
    names = ("checkpoints/attempt-1.0/step-8/a", "finetuneexperiments/ml/mine/checkpoints/b")
    for name in names:
        store.write(name, b"x")
    make_old()
    answer = found(look(location))
    assert (answer.folders, answer.leftovers) == ([], [])


def test_what_may_still_be_written_is_no_leftover(tmp_path, monkeypatch):
    Ground(tmp_path, monkeypatch)
    location = Location.model_validate({"volumeClaim": {"claimName": "results"}})
    open_store(location, prefix()).write("checkpoints/attempt-1.0/step-8/a", b"x")
    assert found(look(location)).leftovers == []


def test_old_open_uploads_of_ours_are_aborted(tmp_path, monkeypatch):
    Ground(tmp_path, monkeypatch)
    stub = S3Stub()
    stub.uploads = {"u0": {1: b"x"}, "u1": {1: b"x"}}
    stub.upload_keys = {"u0": f"a/{prefix()}/checkpoints/x", "u1": "a/finetuneexperiments/x"}
    with local_web(stub) as web:
        s3 = {"bucket": "lake", "prefix": "a", "endpoint": web.url(""), "pathStyle": True}
        location = Location.model_validate({"s3": s3 | {"anonymous": True}})
        leftovers = found(look(location)).leftovers
        assert [one.upload for one in leftovers] == ["u0"]
        removed(look(location, leftovers=leftovers))
        assert list(stub.uploads) == ["u1"]
        stub.uploads["u0"] = {}
        stub.written = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        assert found(look(location)).leftovers == []
