"""Settings: file and environment, every problem named, every field documented."""

from __future__ import annotations

import json

import pytest

from finetune_operator.errors import SettingsError
from finetune_operator.settings import Settings, load_settings

IMAGE = {"FINETUNE_OPERATOR_TRAINER_IMAGE": "trainer:1"}


def test_the_environment_alone_is_enough():
    storage = json.dumps({"volumeClaim": {"claimName": "results"}})
    found = load_settings(
        IMAGE
        | {
            "FINETUNE_OPERATOR_NAMESPACES": '["ml", "nlp"]',
            "FINETUNE_OPERATOR_HEALTH_PORT": "9000",
            "FINETUNE_OPERATOR_USE_PROXIES": "true",
            "FINETUNE_OPERATOR_DEFAULT_STORAGE": storage,
        }
    )
    assert (found.namespaces, found.health_port, found.use_proxies) == (("ml", "nlp"), 9000, True)
    assert found.default_storage is not None
    assert found.default_storage.volume_claim is not None


def test_the_environment_overrides_the_file(tmp_path):
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"trainerImage": "file:1", "leaseName": "from-file"}))
    found = load_settings(IMAGE | {"FINETUNE_OPERATOR_CONFIG": str(file)})
    assert (found.trainer_image, found.lease_name) == ("trainer:1", "from-file")


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        pytest.param({}, "trainerImage", id="no image"),
        pytest.param(IMAGE | {"FINETUNE_OPERATOR_WORKERS": "0"}, "workers", id="out of range"),
        pytest.param(IMAGE | {"FINETUNE_OPERATOR_NAMESPACES": "[ml"}, "NAMESPACES", id="not JSON"),
        pytest.param(IMAGE | {"FINETUNE_OPERATOR_CONFIG": "/absent"}, "/absent", id="no file"),
    ],
)
def test_a_wrong_setting_is_named(environment, named):
    with pytest.raises(SettingsError, match=named):
        load_settings(environment)


def test_all_problems_are_told_at_once(tmp_path):
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"workers": 0, "color": "red"}))
    with pytest.raises(SettingsError) as found:
        load_settings({"FINETUNE_OPERATOR_CONFIG": str(file)})
    assert all(name in str(found.value) for name in ("workers", "color", "trainerImage"))


def test_every_setting_has_a_sentence_that_begins_with_its_name():
    for field in Settings.model_fields.values():
        assert (field.description or "").split()[0] == field.alias
