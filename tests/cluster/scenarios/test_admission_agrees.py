"""Local admission and the API server give the same answer to every object of the corpus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from harness.kubectl import fetch, wait_until
from harness.locations import KUBECONFIG
from harness.namespaces import namespace
from kubernetes import config
from server_admission import AdmissionServer, trial_crds

from corpus.admission_case import Case
from corpus.admission_cases import ADMISSION_CASES
from corpus.local_answer import local_object, local_problems, rule_messages
from corpus.random_objects import random_manifest
from finetune_api.crds import SERVED_KINDS, crds
from finetune_operator.cluster.local_admission import AdmissionError, admit


@pytest.fixture(scope="module")
def server() -> Iterator[AdmissionServer]:
    """A real API server that serves the generated schemas in a group of their own."""
    with namespace("admission") as name:
        server = AdmissionServer(config.new_client_from_config(str(KUBECONFIG)), name)
        definitions = trial_crds()
        try:
            for definition in definitions:
                answer = server.define(definition)
                assert answer.accepted, answer.problems
            wait_until("kinds are served", lambda: all(map(server.defined, definitions)))
            served = next(case for case in ADMISSION_CASES if not case.refused)
            wait_until("objects are answered", lambda: server.answer(served).accepted)
            yield server
        finally:
            for definition in definitions:
                server.forget(definition)


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=f"{case.kind}: {case.says}") for case in ADMISSION_CASES]
)
def test_the_server_and_local_admission_agree(server: AdmissionServer, case: Case) -> None:
    answer, problems = server.answer(case), local_problems(case)
    assert answer.accepted == (not problems), (answer.problems, problems)
    assert answer.fields == {problem.split(": ")[0] for problem in problems}
    if answer.accepted:
        assert answer.spec == local_object(case)["spec"]
    rules = rule_messages(case.kind)
    said_by_server = {f"{field}: {rule}" for field, text in answer.problems for rule in rules
                      if text.endswith(f": {rule}")}  # fmt: skip
    assert said_by_server == {p for p in problems if p.split(": ", 1)[1] in rules}


@pytest.mark.parametrize("kind", SERVED_KINDS)
def test_they_agree_on_random_objects(server: AdmissionServer, kind: str) -> None:
    for seed in range(100):
        manifest = random_manifest(kind, seed)
        answer = server.create(manifest)
        assert (answer.spec or None) == local_spec(manifest), (manifest, answer.problems)


def local_spec(manifest: dict[str, Any]) -> dict[str, Any] | None:
    """Return what local admission stores as the spec, or None when it refuses."""
    try:
        spec: dict[str, Any] = admit(manifest)["spec"]
    except AdmissionError:
        return None
    return spec


def test_the_installed_kinds_are_the_generated_ones(operator: None) -> None:
    for generated in crds().values():
        installed = fetch("crd", generated["metadata"]["name"])
        served, wanted = installed["spec"]["versions"], generated["spec"]["versions"]
        assert [version["schema"] for version in served] == [
            version["schema"] for version in wanted
        ]
