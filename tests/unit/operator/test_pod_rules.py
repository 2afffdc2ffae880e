"""What holds for every pod that we make, beyond the restricted Pod Security Standard."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from accepted_children import all_pod_templates
from finetune_api.names import CONTAINER
from finetune_operator.observed import Manifest


@pytest.fixture(scope="module")
def templates() -> list[Manifest]:
    found = all_pod_templates()
    assert len(found) > 100
    return found


def trainers(templates: list[Manifest]) -> Iterator[tuple[Manifest, Manifest]]:
    for template in templates:
        for container in template["spec"]["containers"]:
            assert container["name"] == CONTAINER
            yield template, container


def test_no_pod_gets_a_token_of_the_api_server(templates: list[Manifest]) -> None:
    for template in templates:
        assert template["spec"]["automountServiceAccountToken"] is False
        assert template["spec"]["enableServiceLinks"] is False


def test_no_file_of_the_image_can_be_changed(templates: list[Manifest]) -> None:
    for _, container in trainers(templates):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_no_secret_is_an_environment_variable_or_an_argument(templates: list[Manifest]) -> None:
    for template in templates:
        spec = template["spec"]
        for container in (*spec["containers"], *spec.get("initContainers", ())):
            assert "envFrom" not in container
            sources = [v["valueFrom"] for v in container.get("env", ()) if "valueFrom" in v]
            assert not any("secretKeyRef" in source for source in sources)


def test_secrets_are_mounted_for_reading_only_by_the_trainer_alone(
    templates: list[Manifest],
) -> None:
    mounted = 0
    for template, container in trainers(templates):
        spec = template["spec"]
        ours = [v["name"] for v in spec["volumes"] if v["name"].startswith("secret-")]
        for name in ours:
            [mount] = [m for m in container["volumeMounts"] if m["name"] == name]
            assert mount["readOnly"] is True
            mounted += 1
        for other in spec.get("initContainers", ()):
            assert not {m["name"] for m in other.get("volumeMounts", ())} & set(ours)
    assert mounted > 10


def test_scratch_space_is_bounded(templates: list[Manifest]) -> None:
    for template in templates:
        for volume in template["spec"]["volumes"]:
            if volume["name"] in ("scratch", "shared-memory"):
                assert volume["emptyDir"]["sizeLimit"]
