"""What a target holds after a copy that was cut, repeated or met other content."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_trainer.errors import ExternalServiceError
from finetune_trainer.path_store import PathStore
from finetune_trainer.store import DamagedError, read_manifest, write_manifest
from finetune_trainer.targets.publication import Artifact, TargetConflictError, publish

FILES = {"config.json": b"{}", "model.safetensors": b"weights", "README.md": b"card"}


class RecordingStore(PathStore):
    """A folder that notes what is written and may refuse one name as a broken server does."""

    def __init__(self, folder: Path, refused: str = "") -> None:
        super().__init__(folder, "pvc://out")
        self.refused, self.writes = refused, []

    def write(self, name, data):
        if name == self.refused:
            raise ExternalServiceError("the object store answers 503")
        self.writes.append(name)
        return super().write(name, data)


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    store = PathStore(tmp_path / "artifact", "pvc://results/artifact-1")
    write_manifest(store, "export/v1", [store.write(name, data) for name, data in FILES.items()])
    return Artifact(store, read_manifest(store))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def test_the_manifest_is_written_last(artifact: Artifact, tmp_path: Path):
    target = RecordingStore(tmp_path / "target")
    publish(artifact, target, replace=False)
    assert sorted(target.writes[:-1]) == sorted(FILES)
    assert target.writes[-1] == "manifest.json"


def test_a_repeat_sends_only_what_is_missing(artifact: Artifact, tmp_path: Path):
    cut = RecordingStore(tmp_path / "target", refused="model.safetensors")
    with pytest.raises(ExternalServiceError) as raised:
        publish(artifact, cut, replace=False)
    assert raised.value.reason == "TargetUnavailable"
    assert "manifest.json" not in content(tmp_path / "target")
    again = RecordingStore(tmp_path / "target")
    publish(artifact, again, replace=False)
    assert again.writes == ["model.safetensors", "manifest.json"]


def test_a_finished_target_is_left_alone(artifact: Artifact, tmp_path: Path):
    publish(artifact, RecordingStore(tmp_path / "target"), replace=False)
    again = RecordingStore(tmp_path / "target")
    publish(artifact, again, replace=False)
    assert again.writes == []


@pytest.mark.parametrize(
    "name", ["config.json", "pytorch_model.bin", "manifest.json"], ids="other {}".format
)
def test_other_content_is_a_conflict_and_stays(artifact: Artifact, tmp_path: Path, name: str):
    folder = tmp_path / "target"
    folder.mkdir()
    (folder / name).write_bytes(b"somebody's")
    with pytest.raises(TargetConflictError, match=name):
        publish(artifact, RecordingStore(folder), replace=False)
    assert content(folder) == {name: b"somebody's"}


def test_replace_removes_other_content_but_no_unrelated_file(artifact: Artifact, tmp_path: Path):
    folder = tmp_path / "target"
    folder.mkdir()
    for name in ("config.json", "pytorch_model.bin", "notes.txt"):
        (folder / name).write_bytes(b"somebody's")
    publish(artifact, RecordingStore(folder), replace=True)
    expected = FILES | {
        "notes.txt": b"somebody's",
        "manifest.json": artifact.store.read("manifest.json"),
    }
    assert content(folder) == expected


def test_a_file_that_was_damaged_since_is_not_published(artifact: Artifact, tmp_path: Path):
    (tmp_path / "artifact" / "README.md").write_bytes(b"CARD")
    with pytest.raises(DamagedError, match=r"README\.md"):
        publish(artifact, RecordingStore(tmp_path / "target"), replace=False)
    assert "manifest.json" not in content(tmp_path / "target")
    assert "README.md" not in content(tmp_path / "target")
