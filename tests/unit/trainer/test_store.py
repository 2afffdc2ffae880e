"""The store on a folder: write once, manifest last, damage is named."""

import errno
import os
import stat

import pytest

from finetune_api.storage import Location
from finetune_trainer.errors import ConfigurationError, ResourcesExhaustedError
from finetune_trainer.path_store import PathStore
from finetune_trainer.store import (
    DamagedError,
    download_verified,
    free_folder,
    open_store,
    read_manifest,
    store_at,
    verify,
    write_manifest,
)


@pytest.fixture
def store(tmp_path):
    return PathStore(tmp_path / "claim", "pvc://claim/runs")


def written(store, **contents):
    entries = [store.write(f"{name}.bin", content) for name, content in contents.items()]
    return write_manifest(store, "test/v1", entries, step=3)


def test_a_name_is_written_once(store):
    store.write("a/b.bin", b"one")
    with pytest.raises(FileExistsError):
        store.write("a/b.bin", b"two")
    assert store.read("a/b.bin") == b"one"


def test_an_entry_tells_size_and_digest_of_all_chunks(store):
    entry = store.write("a.bin", iter([b"ab", b"", b"c"]))
    assert (entry.bytes, entry.sha256[:8]) == (3, "ba7816bf")


def test_a_write_that_fails_leaves_no_file(store):
    def chunks():
        yield b"half"
        raise RuntimeError("the producer stopped")

    with pytest.raises(RuntimeError):
        store.write("a.bin", chunks())
    assert store.list() == []


@pytest.mark.parametrize("name", ["/etc/passwd", "../a", "a/../../b", "", "a//b", "a\0b", "./a"])
def test_a_name_cannot_leave_the_store(store, name):
    with pytest.raises(ValueError, match="plain relative path"):
        store.write(name, b"")


def test_names_are_listed_sorted_and_relative(store):
    for name in ("b/x.bin", "a.bin", "b/c/y.bin"):
        store.write(name, b"")
    assert store.list() == ["a.bin", "b/c/y.bin", "b/x.bin"]
    assert store.list("b/c") == ["b/c/y.bin"]
    assert store.child("b").list() == ["c/y.bin", "x.bin"]
    assert store.child("nothing").list() == []


def test_files_without_a_manifest_do_not_verify(store):
    store.write("a.bin", b"one")
    with pytest.raises(DamagedError, match=r"pvc://claim/runs: manifest.json is missing"):
        read_manifest(store)


def test_a_whole_folder_verifies_and_its_manifest_has_the_digest_that_was_returned(store):
    digest = written(store, a=b"one", b=b"two")
    manifest = read_manifest(store)
    verify(store, manifest)
    assert (manifest.digest, manifest.format, manifest.facts) == (digest, "test/v1", {"step": 3})


def test_equal_files_give_an_equal_digest_whatever_the_order(tmp_path):
    one, two = PathStore(tmp_path / "1", "pvc://1"), PathStore(tmp_path / "2", "pvc://2")
    assert written(one, a=b"x", b=b"y") == written(two, b=b"y", a=b"x")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda path: path.write_bytes(b"oNe"), "content is sha256:", id="flipped"),
        pytest.param(lambda path: path.write_bytes(b"on"), "has 2 bytes", id="truncated"),
        pytest.param(lambda path: path.unlink(), "missing", id="removed"),
    ],
)
def test_a_damaged_file_is_named(store, tmp_path, damage, message):
    written(store, a=b"one", b=b"two")
    damage(tmp_path / "claim" / "a.bin")
    with pytest.raises(DamagedError, match=f"pvc://claim/runs/a.bin: .*{message}"):
        verify(store, read_manifest(store))
    with pytest.raises(DamagedError, match=r"a\.bin"):
        download_verified(store, read_manifest(store), tmp_path / "copy")


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"files": [{"name": "../x"}]}', b"\xff"])
def test_a_manifest_that_cannot_be_read_is_damage(store, content):
    store.write("manifest.json", content)
    with pytest.raises(DamagedError, match=r"manifest.json is damaged"):
        read_manifest(store)


def test_verified_files_are_copied_under_their_names(store, tmp_path):
    store.write("x/a.bin", b"one")
    write_manifest(store, "test/v1", [store.write("x/b.bin", b"two")])
    download_verified(store, read_manifest(store), tmp_path / "copy")
    assert (tmp_path / "copy/x/b.bin").read_bytes() == b"two"
    assert not (tmp_path / "copy/x/a.bin").exists()


def test_a_pod_that_runs_again_starts_beside_what_a_killed_one_left(store):
    store.child("snapshot-1").write("train.parquet", b"half")
    assert free_folder(store, "snapshot-1").uri == "pvc://claim/runs/snapshot-1.1"
    assert free_folder(store, "snapshot-2").uri == "pvc://claim/runs/snapshot-2"


def test_deleting_twice_is_no_error(store):
    store.write("a.bin", b"")
    store.delete("a.bin")
    store.delete("a.bin")
    assert not store.exists("a.bin")


@pytest.mark.parametrize(
    ("number", "reason"), [(errno.ENOSPC, "NoSpace"), (errno.EROFS, "StorageUnavailable")]
)
def test_a_storage_that_cannot_take_more_is_told_apart(store, monkeypatch, number, reason):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(ResourcesExhaustedError) as refused:
        store.write("a.bin", b"x")
    assert refused.value.reason == reason


class StrictFiles:
    """Refuses what the strictest bucket mounts refuse, and notes which files were opened."""

    def __init__(self, monkeypatch):
        self.opened = []
        for name in ("rename", "replace", "link", "symlink", "truncate", "ftruncate", "chmod"):
            monkeypatch.setattr(os, name, self._refuse)
        for name in ("lseek", "pwrite"):
            monkeypatch.setattr(os, name, self._refuse)
        plain = os.open

        def noted(path, flags, *rest, **more):
            if flags & os.O_WRONLY:
                assert flags & os.O_EXCL
                assert not flags & (os.O_APPEND | os.O_TRUNC)
                self.opened.append(os.fspath(path))
            return plain(path, flags, *rest, **more)

        monkeypatch.setattr(os, "open", noted)

    def _refuse(self, *_, **__):
        raise AssertionError("an object store cannot do this")


def test_a_write_creates_appends_in_order_and_closes_nothing_else(store, monkeypatch):
    strict = StrictFiles(monkeypatch)
    written(store, a=b"one", b=b"two")
    verify(store, read_manifest(store))
    store.delete("a.bin")
    assert [name.rpartition("/")[2] for name in strict.opened] == [
        "a.bin",
        "b.bin",
        "manifest.json",
    ]


def test_an_error_of_the_last_close_is_the_error_of_the_write(store, monkeypatch):
    plain = os.close

    def late(handle):
        regular = stat.S_ISREG(os.fstat(handle).st_mode)
        plain(handle)
        if regular:
            raise OSError(errno.EIO, "late upload failed")

    monkeypatch.setattr(os, "close", late)
    with pytest.raises(ResourcesExhaustedError):
        store.write("a.bin", b"x")


def test_a_location_opens_the_claim_below_its_path(tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_CLAIMS_DIR", str(tmp_path))
    location = Location.model_validate({"volumeClaim": {"claimName": "models", "path": "team/a"}})
    store = open_store(location, "datasets/default/x")
    store.write("a.bin", b"one")
    assert store.uri == "pvc://models/team/a/datasets/default/x"
    assert (tmp_path / "models/team/a/datasets/default/x/a.bin").exists()
    assert store_at(location, f"{store.uri}").list() == ["a.bin"]
    with pytest.raises(ConfigurationError, match="lies outside"):
        store_at(location, "pvc://other/a")


def test_a_location_without_a_place_is_refused():
    with pytest.raises(ConfigurationError, match="volumeClaim"):
        open_store(Location())
