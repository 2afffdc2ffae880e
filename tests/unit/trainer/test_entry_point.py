"""A verb of one process: what it raises or returns becomes exit code and last word."""

from __future__ import annotations

import json

import pytest

from finetune_api import names
from finetune_api.run_outcome import Outcome, TrainingSummary
from finetune_trainer import entry_point
from finetune_trainer.__main__ import main
from finetune_trainer.entry_point import run_verb
from finetune_trainer.errors import AccessError, DataError

CONFIG = {
    "identity": {
        "kind": "Dataset",
        "namespace": "lab",
        "name": "d",
        "uid": "u",
        "revision": 1,
        "attempt": 1,
    },
    "spec": {"sources": [{"name": "one", "inline": {"format": "JSONL", "data": "{}"}}]},
    "location": {"volumeClaim": {"claimName": "c"}},
    "prefix": "datasets/lab/d-u",
}


@pytest.fixture
def last_word(tmp_path, monkeypatch):
    monkeypatch.setattr(entry_point.signal, "signal", lambda *_: None)
    monkeypatch.setenv(names.CONFIG_ENV, str(tmp_path / "config.json"))
    monkeypatch.setenv(names.TERMINATION_LOG_ENV, str(tmp_path / "last-word"))
    monkeypatch.setenv(names.PORT_ENV, "0")
    monkeypatch.setattr(entry_point, "read_config", read(entry_point.read_config))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return lambda: Outcome.model_validate_json((tmp_path / "last-word").read_bytes())


def read(original):
    return lambda verb: original("dataset" if verb == "played" else verb)


def raising(error: BaseException):
    def run(config, report):
        report.stage("Fetching", 0.25)
        report.warn("Odd", "something is odd")
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        pytest.param(DataError("row 3 is broken"), 11, "", id="data"),
        pytest.param(
            AccessError("refused", reason="AccessDenied"), 12, "AccessDenied", id="access"
        ),
        pytest.param(MemoryError(), 21, "OutOfHostMemory", id="memory"),
        pytest.param(ValueError("secret text of a record"), 1, "", id="unexpected"),
    ],
)
def test_what_is_raised_becomes_the_exit_code_and_last_word_of_its_class(
    last_word, error, code, reason
):
    assert run_verb("played", raising(error)) == code
    assert (last_word().reason, last_word().warnings[0].reason) == (reason, "Odd")
    assert "secret" not in last_word().message


def test_a_summary_and_artifacts_are_part_of_a_good_last_word(last_word, monkeypatch):
    monkeypatch.setattr(entry_point, "_field", lambda _: "training")

    def run(config, report):
        report.artifact("report", "pvc://c/report.html")
        return TrainingSummary(checkpoint_choice="Last", kind="Adapter")

    assert run_verb("played", run) == 0
    assert last_word().training.kind == "Adapter"
    assert last_word().artifacts[0].uri == "pvc://c/report.html"


def test_a_missing_config_is_a_configuration_error(last_word, monkeypatch, tmp_path):
    monkeypatch.setenv(names.CONFIG_ENV, str(tmp_path / "nowhere.json"))
    assert run_verb("dataset", raising(AssertionError())) == 10
    assert names.CONFIG_ENV in last_word().message


def test_an_unknown_field_of_the_config_is_named(last_word, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"colour": "red"}))
    assert run_verb("dataset", raising(AssertionError())) == 10
    assert "colour" in last_word().message


def test_an_unknown_verb_is_refused(capsys):
    assert main(["dance"]) == 10
    assert "dance" in capsys.readouterr().err


def test_an_image_with_an_unsafe_library_is_refused_before_anything_is_read(last_word, monkeypatch):
    found = ["transformers 5.2 is older than 5.3"]
    monkeypatch.setattr(entry_point, "unsafe_packages", lambda *_: found)
    assert run_verb("dataset", raising(AssertionError())) == 10
    assert "transformers 5.2 is older than 5.3; use the image" in last_word().message


def test_a_job_notes_that_its_results_go_with_their_object(last_word, tmp_path, monkeypatch):
    monkeypatch.setattr(entry_point, "_field", lambda _: "training")
    monkeypatch.setenv(names.CLAIMS_DIR_ENV, str(tmp_path))
    spec = CONFIG["spec"] | {"storage": {"deletionPolicy": "Delete"}}
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"spec": spec}))
    for _ in range(2):
        run_verb("played", lambda *_: TrainingSummary(checkpoint_choice="Last", kind="Adapter"))
    [note] = (tmp_path / "c" / CONFIG["prefix"]).rglob("*.json")
    assert (note.name, json.loads(note.read_text())["policy"]) == ("revision-1.json", "Delete")
