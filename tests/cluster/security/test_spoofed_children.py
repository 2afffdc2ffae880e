"""Names, labels and owners that others wrote are believed in no case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from api_users import Users
from harness.bare_api import BareApi
from played_operator import Play, played_operator, until_so

import good_ends
from corpus.reference_cases import manifest
from finetune_api.names import (
    ATTEMPT_LABEL,
    COMPONENT_LABEL,
    DATASET,
    MANAGED_BY_LABEL,
    OWNER_LABELS,
    OWNER_UID_ANNOTATION,
    REVISION_LABEL,
)

STORED = {"storage": {"volumeClaim": {"claimName": "open"}}}
STRANGERS = {
    "ConfigMap": {"apiVersion": "v1", "data": {"config.json": "{}"}},
    "NetworkPolicy": {
        "apiVersion": "networking.k8s.io/v1",
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    },
    "Job": {"apiVersion": "batch/v1"},
}


def dataset(name: str) -> dict[str, Any]:
    return manifest(DATASET, STORED, name=name)


def labels(name: str) -> dict[str, str]:
    return {
        OWNER_LABELS[DATASET]: name, MANAGED_BY_LABEL: "finetune-operator",
        "app.kubernetes.io/part-of": "finetune-operator", COMPONENT_LABEL: "attempt",
        ATTEMPT_LABEL: "1", REVISION_LABEL: "1",
    }  # fmt: skip


def restricted_pod() -> dict[str, Any]:
    container = {
        "name": "trainer", "image": "x",
        "securityContext": {
            "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"},
        },
    }  # fmt: skip
    return {"restartPolicy": "Never", "containers": [container]}


def stranger(kind: str, name: str) -> dict[str, Any]:
    content = dict(STRANGERS[kind])
    if kind == "Job":
        content["spec"] = {"suspend": True, "template": {"spec": restricted_pod()}}
    return {"kind": kind, "metadata": {"name": name, "labels": labels(name[:-3])}, **content}


def owned_by(found: dict[str, Any]) -> list[dict[str, Any]]:
    own = {"apiVersion": found["apiVersion"], "kind": found["kind"], "controller": True}
    return [{**own, "name": found["metadata"]["name"], "uid": found["metadata"]["uid"]}]


async def test_a_name_that_is_taken_is_never_adopted_and_its_end_is_enough(
    api: BareApi, users: Users, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = Play(users)
    taken = {kind: f"taken-{kind.lower()}" for kind in STRANGERS}
    there = {kind: play.made(stranger(kind, f"{name}-d1")) for kind, name in taken.items()}
    objects = {kind: dataset(name) for kind, name in taken.items()}
    for found in objects.values():
        play.made(found, user="alice")
    async with played_operator(api, tmp_path, monkeypatch) as operator:
        for kind, found in objects.items():
            await until_so(lambda found=found: play.condition(found).get("reason") == "NameTaken")
            assert f"{taken[kind]}-d1" in play.condition(found)["message"]
            before = there[kind]["metadata"]
            live = play.found(STRANGERS[kind]["apiVersion"], kind, before["name"])
            assert live is not None
            assert live["metadata"]["uid"] == before["uid"]
            assert "ownerReferences" not in live["metadata"]
            managers = {entry["manager"] for entry in live["metadata"]["managedFields"]}
            assert "finetune-operator" not in managers
            play.removed(stranger(kind, before["name"]))
        for name in taken.values():
            await until_so(
                lambda name=name: _is_ours(play.found("batch/v1", "Job", f"{name}-d1")), 90
            )
        assert operator.complaints() == []


def _is_ours(job: dict[str, Any] | None) -> bool:
    owners = (job or {}).get("metadata", {}).get("ownerReferences", ())
    return any(owner["kind"] == DATASET for owner in owners)


def test_nobody_but_the_operator_makes_what_our_objects_own(users: Users) -> None:
    play = Play(users)
    found = play.made(dataset("owner"), user="alice")
    for kind in STRANGERS:
        forged = stranger(kind, "owner-d2")
        forged["metadata"]["ownerReferences"] = owned_by(found)
        answer = users.try_out("alice", forged)
        assert answer.status_code == 403, answer.text
        assert "only the operator makes children" in answer.json()["message"]
        honest = play.made(stranger(kind, "owner-d3"), user="alice")
        later = {"metadata": {"ownerReferences": owned_by(found)}}
        assert users.patch("alice", honest, later).status_code == 403
        play.removed(stranger(kind, "owner-d3"))
    play.removed(found)


async def test_pods_that_claim_our_labels_end_nothing(
    api: BareApi, users: Users, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an owner, with an owner of our kind, with a Job of somebody else."""
    play, found = Play(users), dataset("claimed")
    made = play.made(found, user="alice")
    job = play.made(stranger("Job", "alices-d1"), user="alice")
    for number, owner in enumerate(([], owned_by(made), owned_by(job))):
        for uid in (None, "another", made["metadata"]["uid"]):
            claims = {"labels": labels("claimed"), "ownerReferences": owner}
            claims |= {"annotations": {OWNER_UID_ANNOTATION: uid}} if uid else {}
            name = f"claims-{number}-{str(uid)[:5].lower()}"
            pod = {"apiVersion": "v1", "kind": "Pod", "spec": restricted_pod()}
            pod["metadata"] = {"name": name, **claims}
            play.ended(play.made(pod, user="alice"), good_ends.checked_dataset())
    async with played_operator(api, tmp_path, monkeypatch) as operator:
        await until_so(lambda: _is_ours(play.found("batch/v1", "Job", "claimed-d1")), 60)
        await until_so(lambda: play.condition(found).get("reason") in ("Starting", "Queued"))
        assert play.condition(found, "Complete").get("status") != "True"
        assert operator.complaints() == []
