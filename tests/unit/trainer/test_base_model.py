"""Where the base model comes from, and what each failure of its place is called."""

from __future__ import annotations

from types import SimpleNamespace

import httpx
import huggingface_hub
import pytest
from huggingface_hub import errors

from finetune_api import names
from finetune_api.model_settings import Model
from finetune_api.storage import Hub, VolumeClaim
from finetune_trainer.base_model import local_model_folder, model_place, resolved_commit
from finetune_trainer.errors import AccessError, ConfigurationError, ExternalServiceError

ON_VOLUME = Model(volume_claim=VolumeClaim(claim_name="models", path="toy"))
ON_HUB = Model(name="lab/toy", revision="v1")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(names.CLAIMS_DIR_ENV, str(tmp_path))
    made = tmp_path / "models" / "toy"
    made.mkdir(parents=True)
    return made


def test_a_model_on_a_volume_is_used_where_it_lies(folder, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (folder / name).touch()
    assert local_model_folder(ON_VOLUME, Hub(), tmp_path) == folder
    assert model_place(ON_VOLUME) == "pvc://models/toy"


@pytest.mark.parametrize(
    ("files", "error", "reason"),
    [
        pytest.param([], AccessError, "ModelNotFound", id="nothing"),
        pytest.param(["config.json"], AccessError, "ModelNotFound", id="no weights"),
        pytest.param(["model.safetensors"], AccessError, "ModelNotFound", id="no configuration"),
        pytest.param(
            ["config.json", "pytorch_model.bin"],
            ConfigurationError,
            "UnsafeModelFormat",
            id="pickle",
        ),
    ],
)
def test_a_folder_that_is_no_safe_model_is_refused(folder, tmp_path, files, error, reason):
    for name in files:
        (folder / name).touch()
    with pytest.raises(error, match=r"spec\.model") as raised:
        local_model_folder(ON_VOLUME, Hub(), tmp_path)
    assert raised.value.reason == reason


def answer(status: int) -> httpx.Response:
    return httpx.Response(status, request=httpx.Request("GET", "https://hub.example"))


@pytest.mark.parametrize(
    ("raised", "error", "reason"),
    [
        (errors.GatedRepoError("gated", response=answer(403)), AccessError, "AccessDenied"),
        (
            errors.RepositoryNotFoundError("none", response=answer(404)),
            AccessError,
            "ModelNotFound",
        ),
        (errors.RevisionNotFoundError("none", response=answer(404)), AccessError, "ModelNotFound"),
        (errors.HfHubHTTPError("no", response=answer(401)), AccessError, "AccessDenied"),
        (
            errors.HfHubHTTPError("ill", response=answer(503)),
            ExternalServiceError,
            "ServiceUnavailable",
        ),
        (ConnectionError("no route"), ExternalServiceError, "ServiceUnavailable"),
    ],
    ids=["gated", "repository", "revision", "401", "503", "network"],
)
def test_what_the_hub_answers_decides_the_class(monkeypatch, raised, error, reason):
    def ask(*_, **__):
        raise raised

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", ask)
    with pytest.raises(error, match="lab/toy at v1") as found:
        resolved_commit(ON_HUB, Hub())
    assert found.value.reason == reason


def test_only_weights_and_settings_of_the_pinned_commit_are_fetched(monkeypatch, tmp_path):
    files, asked = ["config.json", "model.safetensors", "modeling_toy.py"], {}

    def fetch(name, **arguments):
        asked.update(arguments, name=name)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *_, **__: files)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert local_model_folder(ON_HUB, Hub(), tmp_path, "c0ffee") == tmp_path
    assert (asked["name"], asked["revision"]) == ("lab/toy", "c0ffee")
    assert "*.safetensors" in asked["allow_patterns"]
    assert not [one for one in asked["allow_patterns"] if one in ("*.py", "*.bin", "*")]
    local_model_folder(ON_HUB, Hub(), tmp_path, "c0ffee", weights=False)
    assert "*.safetensors" not in asked["allow_patterns"]


def test_the_commit_of_a_revision_is_what_the_hub_says(monkeypatch):
    info = SimpleNamespace(sha="c0ffee")
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: info)
    assert resolved_commit(ON_HUB, Hub()) == "c0ffee"
    assert resolved_commit(ON_VOLUME, Hub()) is None
