"""The chart's CronJob of `finetune prune`: what it may do, and its command with its own image."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api.names import EXPERIMENT, PLURALS, storage_prefix
from finetune_api.prune_messages import DeletionNote
from finetune_api.storage import DeletionPolicy
from local_web import Asked, LocalWeb, Reply, local_web
from operator_image import environment_of_the_operator_image
from repository.test_chart import (
    CHART_FOLDER,
    SCOPES,
    granted,
    helm,
    needs_helm,
    of_kind,
    rendered,
    template,
)
from s3_stub import S3Stub

pytestmark = needs_helm
ON = "prune.enabled=true"
CLAIM = ("--set", f"{ON},prune.storage.volumeClaim.claimName=results")
UIDS = tuple(f"0f4fd9e5-1d0f-4a3b-9c54-8f3e5f2ab00{number}" for number in (1, 2))
"""UIDS are of an object that was deleted, and of one that lives."""


def cron_job(*settings: str) -> dict[str, Any]:
    (found,) = of_kind(rendered(*settings), "CronJob")
    return found


def pod_of(job: dict[str, Any]) -> dict[str, Any]:
    return job["spec"]["jobTemplate"]["spec"]["template"]["spec"]


def test_it_is_off_by_default():
    assert "finetune_cli" not in template()


def test_its_render_is_the_golden_one(golden: Callable[[str, str], None]):
    golden("chart/prune.yaml", template(*CLAIM, "-s", "templates/prune.yaml"))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (ON, "prune.storage: name exactly one of volumeClaim and s3"),
        (
            f"{ON},prune.storage.s3.bucket=lake,prune.storage.volumeClaim.claimName=results",
            "prune.storage: name exactly one",
        ),
        ("prune.staleHours=0", "staleHours"),
        ("prune.storage.bucket=lake", "bucket"),
    ],
)
def test_values_that_name_no_place_are_refused(setting: str, message: str):
    with pytest.raises(AssertionError, match=message):
        template("--set", setting)


@pytest.mark.parametrize("scope", SCOPES)
def test_it_lists_our_kinds_everywhere_and_does_nothing_else(scope: str):
    objects = rendered(*SCOPES[scope], *CLAIM)
    (binding,) = [
        one
        for one in of_kind(objects, "ClusterRoleBinding", "RoleBinding")
        if one["subjects"][0]["name"] == pod_of(cron_job(*CLAIM))["serviceAccountName"]
    ]
    assert binding["kind"] == "ClusterRoleBinding"
    (role,) = [
        one
        for one in of_kind(objects, "ClusterRole")
        if one["metadata"]["name"] == binding["roleRef"]["name"]
    ]
    assert granted(role["rules"]) == {
        ("finetune.dev", plural, "list") for plural in PLURALS.values()
    }


def test_its_pod_is_restricted_and_no_service_finds_it():
    job = cron_job(*CLAIM)
    pod, (container,) = pod_of(job), pod_of(job)["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    labels = job["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
    for service in of_kind(rendered(*CLAIM), "Service"):
        assert not service["spec"]["selector"].items() <= labels.items()


def test_its_name_fits_a_cron_job():
    shown = ("-s", "templates/prune.yaml")
    text = helm("template", "r" * 53, str(CHART_FOLDER), *CLAIM, *shown)
    (job,) = of_kind([one for one in yaml.load_all(text, yaml.SafeLoader) if one], "CronJob")
    assert len(job["metadata"]["name"]) <= 52


class Ground:
    """A bucket with results of two objects, and an API server that knows one of them."""

    def __init__(self, folder: Path, server: LocalWeb, bucket: S3Stub, url: str) -> None:
        self.bucket, self._folder, self._url = bucket, folder, url
        keys = folder / "secrets" / "keys"
        keys.mkdir(parents=True)
        (keys / "AWS_ACCESS_KEY_ID").write_text("AKIATEST")
        (keys / "AWS_SECRET_ACCESS_KEY").write_text("hidden")
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": server.url("").rstrip("/")}}],
            "users": [{"name": "c", "user": {"token": "t"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        }  # fmt: skip
        (folder / "kubeconfig").write_text(json.dumps(config))
        for uid in UIDS:
            note = DeletionNote(
                policy=DeletionPolicy.DELETE, kind=EXPERIMENT, namespace="ml", name="run", uid=uid
            )
            where = f"a/{storage_prefix(EXPERIMENT, 'ml', 'run', uid)}"
            bucket.objects[f"{where}/deletion/revision-1.json"] = note.model_dump_json().encode()
            bucket.objects[f"{where}/weights"] = b"x"
        bucket.metadata.update({name: {} for name in bucket.objects})

    def run(self, *settings: str) -> subprocess.CompletedProcess[str]:
        """Run the container's command on the ConfigMap's file, with what its image holds."""
        s3 = "prune.storage.s3"
        place = f"{s3}.bucket=lake,{s3}.prefix=a,{s3}.endpoint={self._url},{s3}.pathStyle=true"
        chosen = ("--set", f"{ON},{place},{s3}.secretRef.name=keys", *settings)
        (container,) = pod_of(cron_job(*chosen))["containers"]
        mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
        assert mounts["secret"] == "/mnt/secrets/keys"
        (config,) = [
            one
            for one in of_kind(rendered(*chosen), "ConfigMap")
            if one["metadata"]["name"].endswith("-prune")
        ]
        place_here = self._folder / "storage"
        place_here.mkdir(exist_ok=True)
        for name, text in config["data"].items():
            (place_here / name).write_text(text)
        words = [word.replace(mounts["storage"], str(place_here)) for word in container["command"]]
        image = self._folder / f"image-{len(list(self._folder.iterdir()))}"
        environment = environment_of_the_operator_image(image) | {
            "KUBECONFIG": str(self._folder / "kubeconfig"),
            "FINETUNE_SECRETS_DIR": str(self._folder / "secrets"),
        }
        return subprocess.run(
            [sys.executable, *words[1:]],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip


def _lists(asked: Asked) -> Reply:
    """Answer as an API server where the second object lives."""
    items = []
    if asked.path.partition("?")[0].endswith(f"/{PLURALS[EXPERIMENT]}"):
        items = [{"metadata": {"name": "run", "namespace": "ml", "uid": UIDS[1]}}]
    listed = {"kind": "List", "metadata": {"resourceVersion": "1"}, "items": items}
    return Reply(body=json.dumps(listed).encode(), headers={"Content-Type": "application/json"})


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    bucket = S3Stub()
    with local_web(_lists) as server, local_web(bucket) as storage:
        yield Ground(tmp_path, server, bucket, storage.url("").rstrip("/"))


def test_the_operator_image_lists_first_and_removes_when_told(ground: Ground):
    listed = ground.run()
    assert (listed.returncode, listed.stderr) == (0, "")
    assert f"run-{UIDS[0]}: 2 files would be removed" in listed.stdout
    assert len(ground.bucket.objects) == 4
    removed = ground.run("--set", "prune.delete=true")
    assert (removed.returncode, removed.stdout.count("2 files removed")) == (0, 1)
    assert len(ground.bucket.objects) == 2
    assert all(UIDS[1] in name for name in ground.bucket.objects)


def test_the_operator_image_still_holds_no_torch(tmp_path: Path):
    for module, code in (("torch", 1), ("boto3", 0)):
        done = subprocess.run(
            [sys.executable, "-c", f"import {module}"],
            env=environment_of_the_operator_image(tmp_path / module),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
