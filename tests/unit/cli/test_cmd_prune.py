"""`finetune prune` lists by default, and spares what any living object is or refers to."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from finetune_api.names import EXPERIMENT, storage_prefix
from finetune_api.prune_messages import DeletionNote, MarkedFolder, PruneAnswer
from finetune_api.storage import DeletionPolicy
from finetune_cli.app import cli
from finetune_cli.commands.cmd_prune import chosen
from finetune_cli.living_objects import living
from local_web import Reply, local_web

UID = "0f4fd9e5-1d0f-4a3b-9c54-8f3e5f2ab001"
FOLDER = MarkedFolder(prefix="p", uri="s3://lake/a/run-1", uid=UID, files=3)


def item(uid="another", **parts):
    return {"metadata": {"uid": uid}, **parts}


@pytest.mark.parametrize(
    ("items", "goes"),
    [
        pytest.param([], True, id="nobody lives"),
        pytest.param([item()], True, id="another lives"),
        pytest.param([item(UID)], False, id="it lives"),
        pytest.param(
            [item(status={"start": {"chain": [{"uri": "s3://lake/a/run-1/step-4"}]}})],
            False, id="a status names something in it",
        ),
        pytest.param(
            [item(spec={"model": {"s3": {"bucket": "lake", "prefix": "a/run-1/export/"}}})],
            False, id="a spec names something in it",
        ),
        pytest.param(
            [item(spec={"storage": {"s3": {"bucket": "lake", "prefix": "a"}}})],
            True, id="another writes beside it",
        ),
        pytest.param(
            [item(status={"uri": "s3://lake/a/run-10/step-4"})], True, id="a longer name"
        ),
    ],
)  # fmt: skip
def test_what_a_living_object_is_or_names_stays(items, goes):
    left = chosen(PruneAnswer(folders=[FOLDER], leftovers=[]), living(items))
    assert (left.folders == [FOLDER]) is goes


@pytest.fixture
def ground(tmp_path):
    """A storage file, and a claim with the marked folder of an object that no longer exists."""
    (tmp_path / "storage.yaml").write_text("volumeClaim: {claimName: results}\n")
    folder = tmp_path / "claims" / "results" / storage_prefix(EXPERIMENT, "ml", "run", UID)
    (folder / "deletion").mkdir(parents=True)
    note = DeletionNote(
        policy=DeletionPolicy.DELETE, kind=EXPERIMENT, namespace="ml", name="run", uid=UID
    )
    (folder / "deletion/revision-1.json").write_text(note.model_dump_json())
    (folder / "weights").write_text("x")
    return tmp_path


def pruned(ground, *more, **environment):
    root = Path(__file__).parents[3]
    paths = os.pathsep.join(str(root / part) for part in ("operator", "trainer_image"))
    return CliRunner(env={"PYTHONPATH": paths, **environment}).invoke(
        cli, ["prune", "-s", str(ground / "storage.yaml"), *more]
    )


def files(ground):
    return [path for path in (ground / "claims").rglob("*") if path.is_file()]


def test_it_lists_first_and_removes_when_told(ground):
    listed = pruned(ground, "--work-dir", str(ground))
    assert (listed.exit_code, len(files(ground))) == (0, 2)
    assert "2 files would be removed" in listed.output
    done = pruned(ground, "--work-dir", str(ground), "--delete")
    assert (done.exit_code, files(ground)) == (0, [])
    assert pruned(ground, "--work-dir", str(ground)).output == "nothing to remove\n"


@contextmanager
def cluster(ground, status, items):
    """Let an API server answer each list in the same way; yield what makes the command ask it."""
    told = {"metadata": {"resourceVersion": "1"}, "items": items, "message": "not for you"}
    reply = Reply(status, json.dumps(told).encode())
    with local_web(lambda _: reply) as web:
        config = {
            "clusters": [{"name": "c", "cluster": {"server": web.url("")}}],
            "users": [{"name": "c", "user": {"token": "t"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
            "current-context": "c",
        }
        (ground / "kubeconfig").write_text(json.dumps(config))
        yield {"KUBECONFIG": str(ground / "kubeconfig")}
        assert not any("/namespaces/" in asked.path for asked in web.asked)


def test_what_lives_in_any_namespace_of_the_cluster_stays(ground):
    with cluster(ground, 200, [item(UID)]) as environment:
        done = pruned(ground, "--mounts", str(ground), "--delete", **environment)
    assert (done.output, len(files(ground))) == ("nothing to remove\n", 2)


@pytest.mark.parametrize(("status", "said"), [(403, "not for you"), (503, "not for you")])
def test_nothing_is_removed_when_nobody_can_say_what_lives(ground, status, said):
    with cluster(ground, status, []) as environment:
        done = pruned(ground, "--mounts", str(ground), "--delete", **environment)
    assert (done.exit_code, len(files(ground))) == (2, 2)
    assert said in done.stderr


def test_nothing_is_removed_without_a_cluster(ground):
    nowhere = {"KUBECONFIG": str(ground / "absent")}
    done = pruned(ground, "--mounts", str(ground), "--delete", **nowhere)
    assert (done.exit_code, len(files(ground))) == (2, 2)
    assert "no way to reach an API server" in done.stderr


@pytest.mark.parametrize("text", ["{}", "- a", "volumeClaim: {}", "a: ["])
def test_a_file_that_names_no_place_is_refused(ground, text):
    (ground / "storage.yaml").write_text(text)
    done = pruned(ground, "--work-dir", str(ground))
    assert done.exit_code == 2
    assert "storage" in done.stderr
