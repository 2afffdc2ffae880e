"""Bad input is refused early, with a reason a person can act on, and costs no training pod."""

from __future__ import annotations

import pytest
from harness import kubectl as kube
from harness.object_store import s3_secret
from scenarios.stories import (
    Ground,
    bucket,
    condition,
    dataset,
    experiment,
    rank_pods,
    wait_for,
    wait_for_condition,
)

BROKEN_ROWS = "\n".join(['{"instruction": "only a question"}'] * 5)


def _inline(text: str) -> dict[str, object]:
    return {"format": "JSONL", "inline": {"data": text}}


@pytest.mark.parametrize(
    ("name", "spec", "reason", "words"),
    [
        pytest.param(
            "absent",
            {"sources": [{"s3": "inputs/there-is-none.jsonl"}]},
            "SourceNotFound",
            ["there-is-none.jsonl"],
            id="the file is absent",
        ),
        pytest.param(
            "column",
            {"columns": {"prompt": ["instruction"], "answer": "reply"}},
            "MissingColumn",
            ["reply", "output"],
            id="the mapped column does not exist",
        ),
        pytest.param(
            "broken",
            {"sources": [_inline(BROKEN_ROWS)], "columns": {"prompt": ["instruction"]}},
            "MissingColumn",
            ["answer"],
            id="every record lacks its answer",
        ),
        pytest.param(
            "empty",
            {"sources": [_inline('{"instruction": "a", "output": " "}\n' * 3)]},
            "EmptyAnswer",
            ["1", "2", "3"],
            id="every answer is empty",
        ),
    ],
)
def test_bad_data_stalls_the_dataset_and_no_training_pod_is_created(
    ground: Ground, name: str, spec: dict, reason: str, words: list[str]
) -> None:
    sources = [
        {"s3": bucket(source["s3"])} if isinstance(source.get("s3"), str) else source
        for source in spec.get("sources", [])
    ]
    body = dataset(name, **(spec | ({"sources": sources} if sources else {})))
    run = experiment(f"run-{name}")
    run["spec"]["dataset"]["name"] = name
    kube.apply([body, run], namespace=ground.namespace)

    failed = wait_for_condition("dataset", name, ground.namespace, "Failed")

    assert condition(failed, "Stalled")["status"] == "True"
    assert condition(failed, "Ready")["reason"] in (reason, "InvalidData")
    text = condition(failed, "Ready")["message"] + str(failed["status"].get("findings", ""))
    assert reason in text or condition(failed, "Ready")["reason"] == reason
    assert all(word in text for word in words), text
    waiting = wait_for(
        "finetuneexperiment",
        run["metadata"]["name"],
        ground.namespace,
        lambda body: condition(body, "DependenciesReady").get("reason") == "DependencyFailed",
    )
    assert name in condition(waiting, "DependenciesReady")["message"]
    assert rank_pods(ground.namespace, run["metadata"]["name"]) == []


def test_a_forbidden_bucket_ends_as_access_denied_in_one_attempt(ground: Ground) -> None:
    s3_secret(ground.namespace, "wrong", access_key="nobody", secret_key="nothing-at-all")
    source = bucket("inputs/train.jsonl") | {"secretRef": {"name": "wrong"}}
    kube.apply(dataset("forbidden", sources=[{"s3": source}]), namespace=ground.namespace)

    failed = wait_for_condition("dataset", "forbidden", ground.namespace, "Failed")

    assert condition(failed, "Ready")["reason"] == "AccessDenied"
    assert failed["status"]["attempt"]["number"] == 1


def test_a_model_that_does_not_exist_fails_once_and_is_never_retried(sums: Ground) -> None:
    run = experiment("no-model")
    run["spec"]["model"] = {"s3": bucket("inputs/no-such-model")}
    kube.apply(run, namespace=sums.namespace)

    failed = wait_for_condition("finetuneexperiment", "no-model", sums.namespace, "Failed")

    assert condition(failed, "Ready")["reason"] == "ModelNotFound"
    assert failed["status"]["history"][0]["class"] == "Access"
    assert len(failed["status"]["history"]) == 1
    assert rank_pods(sums.namespace, "no-model") == []


def test_an_experiment_waits_for_its_dataset_and_starts_by_itself(ground: Ground) -> None:
    run = experiment("early", steps=2, nodes=1)
    run["spec"]["dataset"]["name"] = "late"
    kube.apply(run, namespace=ground.namespace)
    waiting = wait_for(
        "finetuneexperiment",
        "early",
        ground.namespace,
        lambda body: condition(body, "DependenciesReady").get("reason") == "DependencyNotFound",
    )
    assert condition(waiting, "Ready")["status"] == "False"
    assert "late" in condition(waiting, "DependenciesReady")["message"]

    kube.apply(dataset("late"), namespace=ground.namespace)
    wait_for_condition("finetuneexperiment", "early", ground.namespace, "Complete")
