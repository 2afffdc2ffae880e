"""The limits an administrator may switch on, asked of a real API server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from api_users import Users, rendered_chart
from harness.bare_api import BareApi
from harness.processes import wait_until

from corpus.reference_cases import manifest
from finetune_api.names import DATASET, EXPERIMENT, EXPORT, PLURALS

LIMITED = "limited"
VALUES = {
    "endpoints": {"allowed": ["https://lake.example:9000/", "https://hub.example/"]},
    "ceilings": {
        "maxGpus": 8, "maxEpochs": 2.5, "maxSteps": 100, "maxLength": 4096, "maxRank": 32,
        "budgetRequired": True,
    },
    "queueRequired": {"resources": list(PLURALS.values())},
    "networkPolicy": {"modes": ["Restricted"]},
    "podSettings": {"images": ["registry.example/team/"]},
}  # fmt: skip
OBEDIENT: dict[str, Any] = {
    "scheduling": {"queueName": "team"},
    "networkPolicy": {"mode": "Restricted"},
}
SHORT = {
    "tokenizer": {"maxLength": 512}, "runPolicy": {"budget": {"gpuHours": 1}}
}  # fmt: skip
IMAGE = "registry.example/team/x"
LAKE = {"bucket": "lake", "endpoint": "https://lake.example:9000"}


def elsewhere(address: str) -> dict[str, Any]:
    return {"storage": {"s3": {**LAKE, "endpoint": address}}}


REFUSED = [
    (DATASET, elsewhere("https://evil.example"), "spec.storage.s3.endpoint"),
    (DATASET, elsewhere("https://lake.example:9000.evil.example"), "spec.storage.s3.endpoint"),
    (DATASET, elsewhere("http://lake.example:9000/"), "spec.storage.s3.endpoint"),
    (EXPERIMENT, elsewhere("https://lake.example"), "spec.storage.s3.endpoint"),
    (DATASET, {"hub": {"endpoint": "https://evil.example/https://hub.example/"}}, "spec.hub"),
    (EXPERIMENT, {"model": {"name": None, "s3": {**LAKE, "endpoint": "https://x.example"}}},
     "spec.model.s3.endpoint"),
    (EXPORT, {"targets": [{"name": "a", "s3": {"bucket": "abc", "endpoint": "https://x.example"}}]},
     "spec.targets[].s3.endpoint"),
    (DATASET, {"sources": [{"s3": LAKE}, {"http": {"urls": ["https://hub.example/a",
     "https://x.example/b"]}}]}, "spec.sources[].http.urls[]"),
    (EXPORT, {"compute": {"env": [{"name": "HF_ENDPOINT"}]}}, "spec.compute.env[].name"),
    (EXPORT, {"compute": {"env": [{"name": "https_proxy", "value": "x"}]}}, "spec.compute.env"),
    (DATASET, {"compute": {"env": [{"name": "AWS_ENDPOINT_URL_S3"}]}}, "spec.compute.env"),
    (EXPERIMENT, {"compute": {"nodes": 3, "gpusPerNode": 4}}, "spec.compute: GPUs"),
    (EXPERIMENT, {"compute": {"resources": {"limits": {"amd.com/gpu": "1"}}}},
     "spec.compute.resources"),
    (DATASET, {"compute": {"resources": {"requests": {"nvidia.com/gpu": "8"}}}},
     "spec.compute.resources"),
    (EXPORT, {"podOverrides": {"spec": {"initContainers": [{"name": "a", "image": IMAGE,
     "resources": {"limits": {"nvidia.com/gpu": "1"}}}]}}},
     "spec.podOverrides.spec.initContainers[].resources"),
    (EXPORT, {"podOverrides": {"spec": {"initContainers": [{"name": "a", "image": "b"}]}}},
     "spec.podOverrides.spec.initContainers[].image"),
    (DATASET, {"podOverrides": {"spec": {"containers": [{"name": "trainer", "env":
     [{"name": "HTTPS_PROXY", "value": "http://x"}]}]}}},
     "spec.podOverrides.spec.containers[].env[].name"),
    (EXPERIMENT, {"training": {"epochs": 3}}, "spec.training.epochs"),
    (EXPERIMENT, {"preset": "Quality"}, "spec.training.epochs"),
    (EXPERIMENT, {"preset": "Quality", "training": {"epochs": 1}}, "spec.adapter.rank"),
    (EXPERIMENT, {"training": {"maxSteps": 101}}, "spec.training.maxSteps"),
    (EXPERIMENT, {"runPolicy": None}, "spec.runPolicy.budget"),
    (EXPERIMENT, {"tokenizer": {"maxLength": 8192}}, "spec.tokenizer.maxLength"),
    (EXPERIMENT, {"tokenizer": {"maxLength": None}}, "spec.tokenizer.maxLength"),
    (EXPERIMENT, {"adapter": {"rank": 64}}, "spec.adapter.rank"),
    *((kind, {"scheduling": None}, "spec.scheduling.queueName") for kind in PLURALS),
    *((kind, {"networkPolicy": {"mode": "None"}}, "spec.networkPolicy.mode") for kind in PLURALS),
    *((kind, {"networkPolicy": None}, "spec.networkPolicy.mode") for kind in PLURALS),
    *((kind, {"compute": {"image": "registry.example/team-b/x"}}, "spec.compute.image")
      for kind in PLURALS),
]  # fmt: skip
ACCEPTED = [
    *((kind, {}) for kind in PLURALS),
    (DATASET, elsewhere("https://lake.example:9000/any?path")),
    (EXPERIMENT, {"hub": {"endpoint": "https://hub.example"}}),
    (EXPERIMENT, {"compute": {"nodes": 2, "gpusPerNode": 4, "image": IMAGE}}),
    (EXPERIMENT, {"compute": {"resources": {"limits": {"memory": "16Gi"}}}}),
    (EXPERIMENT, {"training": {"epochs": 2}, "adapter": {"rank": 32}}),
    (EXPERIMENT, {"preset": "Quality", "training": {"maxSteps": 100}, "adapter": {"rank": 8}}),
    (EXPERIMENT, {"runPolicy": None, "compute": {"gpusPerNode": 0}}),
    (EXPERIMENT, {"adapter": {"type": "None"}, "tokenizer": {"maxLength": 4096}}),
    (EXPORT, {"compute": {"env": [{"name": "NCCL_DEBUG", "value": "INFO"}]}}),
]


def wanted(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Return an object that obeys every limit but for `spec`; None removes a field."""
    found = manifest(kind, OBEDIENT | (SHORT if kind == EXPERIMENT else {}))
    for name, value in spec.items():
        whole = isinstance(value, dict) and name in ("model", "training", "adapter", "tokenizer")
        merged = {**found["spec"].get(name, {}), **value} if whole else value
        found["spec"][name] = merged
    return json.loads(json.dumps(found), object_hook=_without_none)


def _without_none(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if value is not None}


@pytest.fixture(scope="module", autouse=True)
def _limits(api: BareApi, users: Users, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """All of them in one namespace."""
    chosen = {"enabled": True, "namespaceSelector": {"matchLabels": {"limits": "yes"}}}
    values = {name: {**chosen, **more} for name, more in VALUES.items()}
    off = {name: {"enabled": False} for name in ("references", "podOverrides", "owners")}
    file = tmp_path_factory.mktemp("limits") / "values.json"
    file.write_text(json.dumps({"admission": values | off}))
    shown = ("-s", "templates/policies.yaml", "-s", "templates/ceilings.yaml", "-f", str(file))
    api.kubectl("create", "namespace", LIMITED)
    api.kubectl("label", "namespace", LIMITED, "limits=yes")
    text = rendered_chart(*shown, release="limits")
    api.kubectl("apply", "--server-side", "-f", "-", text=text)
    for kind, spec, path in REFUSED:
        wait_until(f"{path} acts", lambda k=kind, s=spec, p=path: p in said(users, k, s))
    yield
    api.kubectl("delete", "-f", "-", text=text)


def said(users: Users, kind: str, spec: dict[str, Any]) -> str:
    """Return the refusal of an object, '' if it is accepted."""
    answer = users.try_out("admin", wanted(kind, spec), namespace=LIMITED)
    return "" if answer.status_code == 201 else answer.json()["message"]


@pytest.mark.parametrize(("kind", "spec", "path"), REFUSED)
def test_what_is_beyond_a_limit_is_refused_by_the_name_of_its_field(
    users: Users, kind: str, spec: dict[str, Any], path: str
) -> None:
    message = said(users, kind, spec)
    assert f"denied request: {path}" in message
    assert users.try_out("admin", wanted(kind, spec)).status_code == 201, "only where chosen"


@pytest.mark.parametrize(("kind", "spec"), ACCEPTED)
def test_what_keeps_to_the_limits_is_accepted(
    users: Users, kind: str, spec: dict[str, Any]
) -> None:
    assert said(users, kind, spec) == ""


def test_limits_fit_the_types_of_our_kinds(api: BareApi) -> None:
    def warnings() -> list[Any] | None:
        found = json.loads(api.kubectl("get", "validatingadmissionpolicies", "-o", "json"))["items"]
        if any("typeChecking" not in item.get("status", {}) for item in found):
            return None
        return [item["status"]["typeChecking"] for item in found if item["status"]["typeChecking"]]

    wait_until("the policies are type-checked", lambda: warnings() is not None)
    assert warnings() == []
