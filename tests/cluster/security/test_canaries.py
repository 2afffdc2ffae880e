"""Secrets planted before a story are nowhere after it: objects, events, log, metrics, status."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from pathlib import Path
from typing import Any

import pytest
from api_users import TEAM, Users
from harness.bare_api import BareApi
from played_operator import Play, played_operator, until_so

import good_ends
from builders import NAMES
from corpus.reference_cases import manifest
from finetune_api.names import COMPONENT_LABEL, DATASET, EXPERIMENT, EXPORT, OWNER_LABELS

KEYS = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "BEARER_TOKEN", "PASSWORD",
    ".dockerconfigjson",
)  # fmt: skip
REF = {"secretRef": {"name": "open"}}
SHARED: dict[str, Any] = {
    "hub": REF,
    "storage": {"s3": {"bucket": "lake", **REF}},
    "compute": {"imagePullSecrets": ["open"]},
}
ROW = f"row-{secrets.token_hex(8)}"
STORY: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        DATASET,
        {"sources": [{"inline": {"data": f'{{"text": "{ROW}"}}'}, "format": "JSONL"}]},
    ),
    (
        EXPERIMENT,
        {"dataset": {"name": NAMES[DATASET]}, "model": {"name": "owner/model"}},
    ),
    (EXPORT, {"source": {"experiment": {"name": NAMES[EXPERIMENT]}}}),
)


def waiting_pods(play: Play, kind: str) -> list[dict[str, Any]]:
    pods = play.listed("v1", "Pod", f"{OWNER_LABELS[kind]}={NAMES[kind]}")
    return [pod for pod in pods if pod["status"].get("phase") == "Pending"]


async def played_to_its_end(play: Play, kind: str, found: dict[str, Any]) -> None:
    """End every pod well until the object is complete."""

    def next_step() -> bool:
        for pod in waiting_pods(play, kind):
            component = pod["metadata"]["labels"][COMPONENT_LABEL]
            play.ended(pod, good_ends.GOOD_ENDS[kind, component]())
        return bool(play.condition(found, "Complete").get("status") == "True")

    await until_so(next_step)


def everything(api: BareApi) -> dict[str, str]:
    """Return every object of the cluster but Secrets, as text by resource."""
    names = api.kubectl("api-resources", "--verbs=list", "-o", "name").split()
    shown = [name for name in names if name != "secrets"]
    found = json.loads(api.kubectl("get", ",".join(shown), "-A", "-o", "json"))["items"]
    texts: dict[str, str] = {}
    for item in found:
        texts[item["kind"]] = texts.get(item["kind"], "") + json.dumps(item)
    return texts


async def test_no_planted_value_is_anywhere(
    api: BareApi, users: Users, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = Play(users)
    planted = {key: f"canary-{secrets.token_hex(12)}" for key in KEYS}
    named = {"name": "open", "namespace": TEAM}
    play.made({"apiVersion": "v1", "kind": "Secret", "metadata": named, "stringData": planted})
    async with played_operator(api, tmp_path, monkeypatch) as operator:
        for kind, spec in STORY:
            found = manifest(kind, {**SHARED, **spec}, name=NAMES[kind])
            play.made(found, user="alice")
            await played_to_its_end(play, kind, found)
        texts = await asyncio.to_thread(everything, api)
        texts["metrics"] = (await operator.get("/metrics"))[1]
        texts["log"] = "\n".join(map(json.dumps, operator.log()))
        token = operator.token
    for told in (DATASET, EXPERIMENT, EXPORT, "ConfigMap", "Job", "Pod", "Event", "Lease"):
        assert texts.get(told), f"the story left no {told}"
    assert "finetune_experiment_status" in texts["metrics"]
    assert '"working"' in texts["log"]
    values = [*planted.values(), token]
    values += [base64.b64encode(value.encode()).decode() for value in planted.values()]
    assert [(w, v) for w, text in texts.items() for v in values if v in text] == []
    assert {where for where, text in texts.items() if ROW in text} == {DATASET, "ConfigMap"}
    statuses = [play.found(*_of(kind))["status"] for kind, _ in STORY]  # type: ignore[index]
    assert ROW not in json.dumps(statuses)


def _of(kind: str) -> tuple[str, str, str]:
    return "finetune.dev/v1alpha1", kind, NAMES[kind]
