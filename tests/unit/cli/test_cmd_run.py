"""The command's answers before anything runs."""

from __future__ import annotations

from click.testing import CliRunner

from finetune_cli.app import cli
from finetune_cli.commands.cmd_run import link_claims
from finetune_cli.read_manifests import read_manifests
from finetune_operator.cluster.local_cluster import LocalCluster

BAD = """
apiVersion: finetune.dev/v1alpha1
kind: Dataset
metadata: {name: one}
spec: {sources: [{format: CSV, inline: {data: "a"}}], chekcs: {}}
---
apiVersion: finetune.dev/v1alpha1
kind: FineTuneExperiment
metadata: {name: two}
spec: {dataset: {name: one}, model: {name: a/b}, training: {learningRate: "1e-4"}}
"""


def test_all_problems_of_all_manifests_are_told_and_nothing_is_stored(tmp_path):
    manifest = tmp_path / "bad.yaml"
    manifest.write_text(BAD)
    done = CliRunner().invoke(
        cli, ["run", "-f", str(manifest), "--work-dir", str(tmp_path / "work")]
    )
    assert done.exit_code == 2
    assert "Dataset/one: spec.chekcs" in done.stderr
    assert "FineTuneExperiment/two: spec.training.learningRate" in done.stderr
    assert not list((tmp_path / "work" / "objects").rglob("*.json"))


def test_a_claim_option_without_a_folder_says_how_to_write_it(tmp_path):
    done = CliRunner().invoke(cli, ["run", "-f", str(tmp_path), "--claim", "data"])
    assert done.exit_code == 2
    assert "write NAME=FOLDER" in done.output


def test_a_claim_is_linked_to_its_folder_and_may_be_moved(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    assert link_claims(tmp_path, [("data", first)]) == []
    assert link_claims(tmp_path, [("data", second)]) == []
    assert (tmp_path / "claims" / "data").resolve() == second


def test_a_claim_that_holds_data_is_not_replaced(tmp_path):
    held, other = tmp_path / "claims" / "data", tmp_path / "other"
    held.mkdir(parents=True)
    other.mkdir()
    problems = link_claims(tmp_path, [("data", other), ("gone", tmp_path / "nowhere")])
    assert ["holds data already" in problems[0], "is no folder" in problems[1]] == [True, True]


def test_the_help_names_the_commands_and_the_kinds():
    text = CliRunner().invoke(cli, ["--help"]).output
    for word in ("run", "validate", "Dataset", "FineTuneExperiment", "ModelExport"):
        assert word in text


GOOD = """
apiVersion: finetune.dev/v1alpha1
kind: Dataset
metadata: {name: one}
spec: {sources: [{format: CSV, inline: {data: "a"}}]}
"""


def test_deleted_objects_are_gone_and_what_was_not_there_is_said(tmp_path):
    manifest, work_dir = tmp_path / "good.yaml", tmp_path / "work"
    manifest.write_text(GOOD)
    LocalCluster(work_dir).submit(read_manifests([manifest])[0].manifest)
    command = ["delete", "-f", str(manifest), "--work-dir", str(work_dir)]
    said = [CliRunner().invoke(cli, command).output for _ in range(2)]
    assert said == ["Dataset/one: deleted\n", "Dataset/one: not found\n"]
    assert LocalCluster(work_dir).ours() == []
