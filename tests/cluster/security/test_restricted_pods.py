"""Every pod that we make is admitted where the Pod Security Standard `restricted` is enforced."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from typing import Any

import pytest
import yaml
from api_users import Users, rendered_chart

from accepted_children import all_pod_templates
from corpus.admission_case import laid_over


@pytest.fixture(scope="module")
def templates(users: Users) -> list[dict[str, Any]]:
    """All of them, and the classes that they name, without which a pod is refused."""
    found = all_pod_templates()
    groups = {
        "priorityClassName": ("scheduling.k8s.io/v1", "PriorityClass", {"value": 1}),
        "runtimeClassName": ("node.k8s.io/v1", "RuntimeClass", {"handler": "runc"}),
    }
    for field, (group, kind, content) in groups.items():
        for name in {t["spec"][field] for t in found if field in t["spec"]}:
            made = {"apiVersion": group, "kind": kind, "metadata": {"name": name}, **content}
            plural = f"/apis/{group}/{kind.lower()}es"
            assert users.ask("admin", "POST", plural, made).status_code == 201
    return found


def pod(template: dict[str, Any]) -> dict[str, Any]:
    """Return the pod that a controller makes of a template."""
    metadata = {**template["metadata"], "name": "one"}
    spec = deepcopy(template["spec"])
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def test_every_pod_is_admitted(users: Users, templates: list[dict[str, Any]]) -> None:
    """Random texts may be no value for a pod (422); that is no matter of security."""
    answers = [users.try_out("admin", pod(template)) for template in templates]
    codes = Counter(answer.status_code for answer in answers)
    said = {a.json()["message"] for a in answers if a.status_code not in (201, 422)}
    assert said == set()
    assert codes[201] > 100, codes


@pytest.mark.parametrize(
    "change",
    [
        {"hostNetwork": True},
        {"securityContext": {"runAsNonRoot": False}},
        {"securityContext": {"seccompProfile": {"type": "Unconfined"}}},
    ],
    ids=str,
)
def test_one_step_aside_is_refused(
    users: Users, templates: list[dict[str, Any]], change: dict[str, Any]
) -> None:
    for template in templates[:3]:
        aside = {**template, "spec": laid_over(template["spec"], change)}
        answer = users.try_out("admin", pod(aside))
        assert answer.status_code == 403
        assert 'violates PodSecurity "restricted' in answer.json()["message"]


def test_the_operators_own_pod_is_admitted(users: Users) -> None:
    shown = rendered_chart("-s", "templates/deployment.yaml")
    [deployment] = yaml.safe_load_all(shown)
    answer = users.try_out("admin", pod(deployment["spec"]["template"]))
    assert answer.status_code == 201, answer.text
