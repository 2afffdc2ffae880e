"""A ConfigMap of the user, on a machine without a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_cli.commands.cmd_validate import validate
from finetune_cli.read_manifests import read_manifests
from finetune_operator.cluster.local_cluster import LocalCluster
from finetune_operator.cluster.local_volumes import NotMountedError

TEXT = """
apiVersion: v1
kind: ConfigMap
metadata: {name: chat}
data: {support.jinja: "{{ messages }}"}
"""


def pod(key: str) -> dict[str, Any]:
    """Return a pod that mounts one key of the ConfigMap under another name."""
    volume = {"name": "chat", "items": [{"key": key, "path": "template.jinja"}]}
    return {
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {
            "volumes": [{"name": "template", "configMap": volume}],
            "containers": [
                {"volumeMounts": [{"name": "template", "mountPath": "/etc/finetune/template"}]}
            ],
        },
    }


@pytest.fixture
def cluster(tmp_path: Path) -> LocalCluster:
    """A work directory that holds the ConfigMap of a manifest."""
    (tmp_path / "chat.yaml").write_text(TEXT)
    cluster = LocalCluster(tmp_path / "work", devices=[])
    [document] = read_manifests([tmp_path / "chat.yaml"])
    assert document.is_config_map
    for _ in range(2):  # a second `finetune run` takes it again
        cluster.hold(document.manifest)
    return cluster


def test_a_key_is_mounted_under_the_path_it_was_given(cluster: LocalCluster) -> None:
    root = cluster.volumes.mount(pod("support.jinja"))
    file = root.local("/etc/finetune/template") / "template.jinja"
    assert file.read_text() == "{{ messages }}"


def test_a_key_that_is_not_there_is_named(cluster: LocalCluster) -> None:
    with pytest.raises(NotMountedError, match=r"other\.jinja"):
        cluster.volumes.mount(pod("other.jinja"))


def test_a_config_map_is_not_judged_as_an_object_of_ours(tmp_path: Path) -> None:
    (tmp_path / "chat.yaml").write_text(TEXT)
    assert validate([tmp_path / "chat.yaml"]) == 0
