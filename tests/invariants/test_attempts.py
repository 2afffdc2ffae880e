"""Whole attempts as real processes: the launcher, its port, its ranks and its last word."""

from __future__ import annotations

import json
import signal
import urllib.request

import pytest
from harness.ports import free_port

from finetune_api import names
from finetune_api.run_progress import Progress
from training_ground import TrainingGround, kill

LONG = {
    "plan": {"totalSteps": 4000, "stepsPerEpoch": 5, "epochs": 800.0},
    "evaluation": {"atStart": False, "generateSamples": 0, "everyEpochs": 0.0},
    "checkpoint": {"everySteps": 5},
}


def asked(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return answer.read()


def test_a_stopped_attempt_saves_answers_on_its_port_and_is_continued(tmp_path, monkeypatch):
    ground, port = TrainingGround(tmp_path), free_port()
    config = ground.config(1, ranks=2, **LONG)
    process = ground.started(config, port)
    ground.at_step(config, 12)
    progress = Progress.model_validate_json(asked(port, "/progress"))
    series = asked(port, "/metrics").decode()
    assert asked(port, "/livez") == b""
    process.send_signal(signal.SIGTERM)
    code, stopped = ground.awaited(process, config)
    assert (code, stopped.failure_class) == (75, "Checkpointed")
    assert stopped.checkpoint.step == stopped.step >= progress.step >= 12
    assert (progress.run, progress.phase) == ("5f0c/1", "Training")
    assert (progress.ranks_joined, progress.total_steps) == (2, 4000)
    assert 'finetune_train_step{attempt="1",experiment="toy"}' in series
    assert list((tmp_path / "scratch-1").iterdir()) == []

    config = ground.config(2, ranks=2, **LONG)
    launcher = ground.begun(config)
    ground.at_step(config, stopped.step + 1)
    kill(launcher.children()[1])
    code, lost = ground.awaited(launcher, config)
    assert (code, lost.failure_class, lost.rank) == (1, "Unknown", 1)
    assert "signal 9" in lost.message


def test_a_missing_preparation_is_a_data_error_with_its_exit_code(tmp_path):
    ground = TrainingGround(tmp_path)
    config = ground.config() | {"prepared_uri": f"{ground.store.uri}/prepared-9-9"}
    code, outcome = ground.ended(config)
    assert (code, outcome.failure_class) == (11, "Data")


@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        pytest.param({"model": {"name": "toy"}, "seed": 1}, 10, "", id="an unknown field"),
        pytest.param({"prepared_digest": "sha256:" + "0" * 64}, 11, "DigestMismatch", id="digest"),
    ],
)
def test_a_config_that_cannot_be_used_ends_the_pod_at_once(tmp_path, change, code, reason):
    ground = TrainingGround(tmp_path)
    found, outcome = ground.ended(ground.config() | change)
    assert (found, outcome.reason) == (code, reason)


def test_a_model_that_is_not_there_is_an_access_error(tmp_path):
    ground = TrainingGround(tmp_path)
    (ground.model / "config.json").unlink()
    code, outcome = ground.ended(ground.config())
    assert (code, outcome.reason) == (12, "ModelNotFound")


def test_a_pickled_model_is_refused(tmp_path):
    ground = TrainingGround(tmp_path)
    (ground.model / "model.safetensors").rename(ground.model / "pytorch_model.bin")
    code, outcome = ground.ended(ground.config())
    assert (code, outcome.reason) == (10, "UnsafeModelFormat")


def test_the_last_word_of_a_broken_model_holds_no_text_from_inside(tmp_path):
    ground = TrainingGround(tmp_path)
    settings = json.loads((ground.model / "config.json").read_bytes()) | {"model_type": "nothing"}
    (ground.model / "config.json").write_text(json.dumps(settings))
    code, outcome = ground.ended(ground.config())
    assert (code, outcome.reason) == (10, "UnsupportedModel")
    assert names.CLAIMS_DIR_ENV not in outcome.message
    assert str(tmp_path) not in outcome.message
