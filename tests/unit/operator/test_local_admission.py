"""Local admission: the same answers as an API server, from the same CRDs."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

from corpus.admission_case import Case
from corpus.admission_cases import ADMISSION_CASES
from corpus.local_answer import local_problems, rule_messages
from finetune_api.crds import SERVED_KINDS
from finetune_api.names import DATASET, EXPERIMENT
from finetune_operator.cluster.local_admission import AdmissionError, admit, admit_status


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(number, id=f"{case.kind}: {case.says}")
        for number, case in enumerate(ADMISSION_CASES)
    ],
)
def test_an_object_is_refused_for_the_named_fields_and_no_others(number: int) -> None:
    found = problems(number)
    expected = set(ADMISSION_CASES[number].refused)
    assert {problem.split(": ")[0] for problem in found} == expected, found


@cache
def problems(number: int) -> list[str]:
    """Return what is said to a case: both tests of the cases ask."""
    return local_problems(ADMISSION_CASES[number])


@pytest.mark.parametrize("kind", SERVED_KINDS)
def test_every_rule_of_a_kind_is_broken_by_some_case(kind: str) -> None:
    refused = [n for n, case in enumerate(ADMISSION_CASES) if case.kind == kind and case.refused]
    said = {problem.split(": ", 1)[1] for number in refused for problem in problems(number)}
    assert rule_messages(kind) - said == set()


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        pytest.param(
            {"training": {"lerningRate": 1}},
            "spec.training.lerningRate: unknown field; did you mean learningRate?",
            id="a near name is suggested",
        ),
        pytest.param(
            {"adapter": {"type": "lora"}},
            'spec.adapter.type: "lora" is not known; did you mean LoRA? allowed: LoRA, DoRA, None',
            id="an enum lists what is allowed",
        ),
        pytest.param(
            {"adapter": {"rank": 0}},
            "spec.adapter.rank: 0 is out of range; allowed: 1 to 1024",
            id="a range is told",
        ),
        pytest.param(
            {"adapter": {"alpha": 0}},
            "spec.adapter.alpha: 0 is out of range; allowed: above 0 to 4096",
            id="an exclusive bound is told",
        ),
        pytest.param(
            {"training": {"adamEpsilon": -1}},
            "spec.training.adamEpsilon: -1 is out of range; allowed: above 0",
            id="a range without an upper bound",
        ),
        pytest.param(
            {"training": {"learningRate": "1e-4"}},
            'spec.training.learningRate: "1e-4" is text, a number is needed; '
            "write it without quotes",
            id="a number in quotes",
        ),
        pytest.param(
            {"compute": {"env": [{"name": "A", "value": 1}]}},
            "spec.compute.env[0].value: 1 is a whole number, text is needed; put it into quotes",
            id="text without quotes",
        ),
        pytest.param(
            {"model": {"name": ""}},
            "spec.model.name: has 0 characters; allowed: 1 to 200",
            id="a length is told",
        ),
        pytest.param(
            {"dataset": {}},
            "spec.dataset.name: is missing; it is required",
            id="a required field",
        ),
        pytest.param(
            {"adapter": {"type": "None", "rank": 8}},
            "spec.adapter: adapter settings do not act in full fine-tuning; remove them or set "
            "type LoRA",
            id="a rule is told in its own words",
        ),
    ],
)
def test_a_refusal_names_field_problem_and_remedy(spec: dict[str, Any], sentence: str) -> None:
    minimal = {"model": {"name": "m"}, "dataset": {"name": "d"}}
    manifest = {**Case("", EXPERIMENT).manifest(), "spec": {**minimal, **spec}}
    with pytest.raises(AdmissionError) as refused:
        admit(manifest)
    assert sentence in refused.value.problems


def test_defaults_are_filled_in_from_outside_in() -> None:
    stored = admit(Case("", EXPERIMENT, {"runPolicy": {"retries": {"unknown": 9}}}).manifest())
    assert stored["spec"]["runPolicy"]["retries"] == {
        "disruption": 100,
        "externalService": 3,
        "unknown": 9,
        "startTimeout": 5,
        "peerLost": 5,
        "hang": 3,
    }
    assert stored["spec"]["training"]["scheduler"] == "Cosine"


@pytest.mark.parametrize("kind", SERVED_KINDS)
def test_what_is_admitted_can_be_read_by_the_models(kind: str) -> None:
    stored = admit(Case("", kind).manifest())
    stored["metadata"]["namespace"] = "default"
    SERVED_KINDS[kind].model.model_validate_json(json.dumps(stored))


def test_the_manifest_itself_is_left_as_it_was() -> None:
    manifest = Case("", DATASET, {"columns": None}).manifest()
    before = json.dumps(manifest)
    admit(manifest)
    assert json.dumps(manifest) == before


def test_the_status_of_an_update_is_that_of_the_stored_object() -> None:
    old = admit_status({"attempt": {"number": 2}}, admit(Case("", DATASET).manifest()))
    forged = {**Case("", DATASET).manifest(), "status": {"attempt": {"number": 9}}}
    assert admit(forged, old)["status"] == {"attempt": {"number": 2}}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        pytest.param({"kind": "Experiment"}, "kind", id="another kind"),
        pytest.param({"apiVersion": "finetune.dev/v1"}, "apiVersion", id="another version"),
        pytest.param({"metadata": {}}, "metadata.name", id="no name"),
    ],
)
def test_an_object_without_identity_is_refused(change: dict[str, Any], word: str) -> None:
    with pytest.raises(AdmissionError) as refused:
        admit({**Case("", DATASET).manifest(), **change})
    assert refused.value.problems[0].startswith(f"{word}: ")
