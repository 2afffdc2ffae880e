"""Reading manifests: the same values as kubectl sends."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from finetune_cli.read_manifests import ManifestError, read_manifests
from finetune_cli.write_manifests import manifest_yaml

HEAD = "apiVersion: finetune.dev/v1alpha1\nkind: Dataset\nmetadata: {name: one}\n"


def read(tmp_path: Path, text: str) -> dict[str, Any]:
    """Return the only manifest of a file."""
    file = tmp_path / "file.yaml"
    file.write_text(text, encoding="utf-8")
    (document,) = read_manifests([file])
    return document.manifest


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-4", 1e-4),
        ("-1e-4", -1e-4),
        ("1E3", 1000),
        ("1.0", 1),
        (".5", 0.5),
        ("1_000", 1000),
        ("012", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("1:30", "1:30"),
        ("2030-01-01", "2030-01-01"),
        ("'1e-4'", "1e-4"),
        ('"012"', "012"),
        ("on", True),
        ("No", False),
        ("y", True),
        ("089", 89),
        ("1_0.5", 10.5),
        ("~", None),
        ("", None),
        ("5Gi", "5Gi"),
        ("1e30", 1e30),
    ],
)
def test_a_value_is_read_as_kubectl_reads_it(tmp_path: Path, written: str, value: Any) -> None:
    found = read(tmp_path, f"{HEAD}spec: {{it: {written}}}\n")["spec"]["it"]
    assert (found, type(found)) == (value, type(value))


def test_anchors_and_merges_are_resolved(tmp_path: Path) -> None:
    text = HEAD + "a: &a {x: 1}\nspec:\n  <<: *a\n  y: *a\n"
    assert read(tmp_path, text)["spec"] == {"x": 1, "y": {"x": 1}}


def test_a_field_given_twice_is_refused_with_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as refused:
        read(tmp_path, HEAD + "spec:\n  license: a\n  license: b\n")
    assert refused.value.problems == (
        f"{tmp_path}/file.yaml: line 6: field license is given twice; remove one",
    )


def test_documents_and_lists_are_taken_apart(tmp_path: Path) -> None:
    two = HEAD.replace("one", "two")
    item = '{"apiVersion": "finetune.dev/v1alpha1", "kind": "Dataset", "metadata": {"name": "%s"}}'
    (tmp_path / "a.yaml").write_text(f"---\n{HEAD}---\n---\n{two}")
    (tmp_path / "b.json").write_text(f'{{"kind": "List", "items": [{item % "x"}, {item % "y"}]}}')
    (tmp_path / "kustomization.yaml").write_text("resources: [a.yaml]")
    (tmp_path / "notes.txt").write_text("not a manifest")
    titles = [document.title for document in read_manifests([tmp_path])]
    assert titles == ["Dataset/one", "Dataset/two", "Dataset/x", "Dataset/y"]


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(HEAD))
    (document,) = read_manifests(["-"])
    assert document.origin == "standard input"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param(
            HEAD.replace("Dataset", "Secret"),
            "kind Secret is not read here; use Dataset, FineTuneExperiment, ModelExport, and "
            "kubectl for other kinds",
            id="a kind of somebody else",
        ),
        pytest.param(
            HEAD.replace("v1alpha1", "v1"),
            "apiVersion of Dataset is finetune.dev/v1; use finetune.dev/v1alpha1",
            id="another version",
        ),
        pytest.param(
            HEAD.replace("{name: one}", "{}"),
            "metadata.name of Dataset is missing; give the object a name",
            id="no name",
        ),
        pytest.param("- 1\n", "a manifest is a block of fields; this is not one", id="a list"),
        pytest.param("a: .nan\n", "line 1: .nan is no number that JSON has; write a finite one",
                     id="not a number"),
        pytest.param("a: [\n", "line 2: expected the node content, but found '<stream end>'",
                     id="broken YAML"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told_in_a_sentence(
    tmp_path: Path, text: str, sentence: str
) -> None:
    with pytest.raises(ManifestError) as refused:
        read(tmp_path, text)
    assert refused.value.problems == (f"{tmp_path}/file.yaml: {sentence}",)


def test_the_problems_of_all_files_are_told_together(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: [")
    (tmp_path / "b.yaml").write_text(HEAD + "---\nkind: Pod\n")
    with pytest.raises(ManifestError) as refused:
        read_manifests([tmp_path, tmp_path / "missing.yaml"])
    origins = [problem.split(": ")[0] for problem in refused.value.problems]
    assert origins == [
        f"{tmp_path}/a.yaml",
        f"{tmp_path}/b.yaml, document 2",
        f"{tmp_path}/missing.yaml",
    ]


def test_the_same_object_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"Dataset/one stands in .* already"):
        read(tmp_path, f"{HEAD}---\n{HEAD}")


@pytest.mark.parametrize(
    "text", ["1e-4", "on", "No", "y", "1:30", "012", "", "~", "null", ".5", "-1", "0x1F", "1_0",
             "2030-01-01", "a: b", "# no comment", "5Gi", "plain words", "two\nlines\n"]
)  # fmt: skip
def test_text_is_written_so_that_every_reader_takes_it_as_text(tmp_path: Path, text: str) -> None:
    import yaml

    written = manifest_yaml({"metadata": {"name": "one"}, "kind": "Dataset", "it": text})
    assert read(tmp_path, f"apiVersion: finetune.dev/v1alpha1\n{written}")["it"] == text
    assert yaml.load(written, Loader=yaml.SafeLoader)["it"] == text


def test_ambiguous_text_is_quoted() -> None:
    assert manifest_yaml({"it": "1e-4"}) == 'it: "1e-4"\n'
    assert manifest_yaml({"it": 1e-4}) != 'it: "1e-4"\n'
