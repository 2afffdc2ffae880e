"""The CronJob of `finetune prune` before a real API server: its account, its pod, its command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_users import SYSTEM, TEAM, Users, rendered_chart
from harness.bare_api import BareApi
from harness.processes import wait_until
from security.test_roles import granted

from corpus.reference_cases import manifest
from finetune_api.names import EXPORT, PLURALS, storage_prefix
from finetune_api.prune_messages import DeletionNote
from finetune_api.storage import DeletionPolicy
from operator_image import environment_of_the_operator_image

ACCOUNT = "ft-finetune-operator-prune"
USER = f"system:serviceaccount:{SYSTEM}:{ACCOUNT}"
CHOSEN = "prune.enabled=true,prune.delete=true,prune.storage.volumeClaim.claimName=results"
GONE = "0f4fd9e5-1d0f-4a3b-9c54-8f3e5f2ab001"


@pytest.fixture(scope="module")
def template(api: BareApi, users: Users) -> dict[str, Any]:
    """Install the CronJob; return the template of its pods."""
    text = rendered_chart("--set", CHOSEN, "-s", "templates/prune.yaml")
    api.kubectl("apply", "--server-side", "-f", "-", text=text)
    wait_until("the role acts", lambda: granted(users, USER, TEAM))
    objects = yaml.load_all(text, yaml.SafeLoader)
    job = next(one for one in objects if one and one["kind"] == "CronJob")
    found: dict[str, Any] = job["spec"]["jobTemplate"]["spec"]["template"]
    return found


@pytest.mark.usefixtures("template")
def test_its_account_lists_our_kinds_and_may_do_nothing_else(users: Users) -> None:
    for namespace in (TEAM, SYSTEM, "default"):
        wanted = {("finetune.dev", plural, "list") for plural in PLURALS.values()}
        assert granted(users, USER, namespace) == wanted
    for path in (f"/api/v1/namespaces/{SYSTEM}/secrets", f"/api/v1/namespaces/{TEAM}/pods"):
        assert users.ask(USER, "GET", path).status_code == 403


def test_its_pod_is_let_into_a_restricted_namespace(users: Users, template: dict[str, Any]) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "prune"}, **template}
    pod["metadata"] = {"name": "prune", "labels": template["metadata"]["labels"]}
    answer = users.try_out("admin", pod)
    assert answer.status_code == 201, answer.text


def test_its_command_spares_what_lives(
    api: BareApi, users: Users, template: dict[str, Any], tmp_path: Path
) -> None:
    answer = users.create("alice", manifest(EXPORT, {}, name="lives"))
    assert answer.status_code == 201, answer.text
    lives = answer.json()["metadata"]
    claim = tmp_path / "claims" / "results"
    for name, uid in (("lives", lives["uid"]), ("gone", GONE)):
        _marked(claim, name, uid)
    token = api.kubectl("create", "token", ACCOUNT, "--namespace", SYSTEM).strip()
    (container,) = template["spec"]["containers"]
    storage = tmp_path / "storage.yaml"
    found = api.kubectl("get", "configmap", ACCOUNT, "-n", SYSTEM, "-o", "json")
    storage.write_text(json.loads(found)["data"]["storage.yaml"])
    words = [w.replace("/etc/finetune-prune", str(tmp_path)) for w in container["command"]]
    done = subprocess.run(
        [sys.executable, *words[1:]],
        env=environment_of_the_operator_image(tmp_path / "image") | {
            "KUBECONFIG": str(api.kubeconfig("prune", token=token)),
            "FINETUNE_CLAIMS_DIR": str(claim.parent),
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("2 files removed") == 1
    left = {path.relative_to(claim).parts[2] for path in claim.rglob("*") if path.is_file()}
    assert left == {f"lives-{lives['uid']}"}
    assert users.ask("alice", "DELETE", lives_path(lives)).status_code == 200


def lives_path(metadata: dict[str, Any]) -> str:
    plural = PLURALS[EXPORT]
    return f"/apis/finetune.dev/v1alpha1/namespaces/{TEAM}/{plural}/{metadata['name']}"


def _marked(claim: Path, name: str, uid: str) -> None:
    """Write what an object leaves that lets it go with itself."""
    folder = claim / storage_prefix(EXPORT, TEAM, name, uid)
    (folder / "deletion").mkdir(parents=True)
    note = DeletionNote(
        policy=DeletionPolicy.DELETE, kind=EXPORT, namespace=TEAM, name=name, uid=uid
    )
    (folder / "deletion/revision-1.json").write_text(note.model_dump_json())
    (folder / "weights").write_text("x")
