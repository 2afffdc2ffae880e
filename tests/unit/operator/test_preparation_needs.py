"""What an experiment refers to is waited for, judged and pinned."""

from __future__ import annotations

import json
from typing import Any

import pytest

import builders
from builders import (
    DATASET,
    EXPERIMENT,
    NAMESPACE,
    condition,
    conditions,
    digest,
    message,
    our_object,
    ready_dataset,
)
from finetune_api.experiment_start import Start
from finetune_api.model_settings import AdapterHandover
from finetune_operator.gather import depends_on
from finetune_operator.observed import Key, Observed
from finetune_operator.planners import plan
from finetune_operator.planners.preparation_needs import start_from
from observed_runs import DATASET_KEY

PARENT = {"fromExperiment": {"name": "parent"}}


def named(kind: str, name: str) -> Key:
    """Return the key of another object."""
    return Key(kind, NAMESPACE, name)


def parent(*, spec: dict[str, Any] | None = None, **status: Any) -> Any:
    """Return a complete experiment named parent."""
    found = builders.complete_experiment(**status)
    update = {"name": "parent", "uid": "uid-parent"}
    changed = found.model_copy(update={"metadata": found.metadata.model_copy(update=update)})
    if spec is None:
        return changed
    text = json.loads(changed.model_dump_json(by_alias=True, exclude_none=True))
    return type(found).model_validate_json(json.dumps(text | {"spec": text["spec"] | spec}))


def asked(references: dict[Key, Any], **spec: Any) -> Observed:
    """Return the first observation of an experiment with references besides its Dataset."""
    known = {DATASET_KEY: ready_dataset()} | references
    return builders.observed(EXPERIMENT, our_object(EXPERIMENT, **spec), references=known)


def begun(observed: Observed) -> dict[str, Any]:
    """Return the status once the preparation is recorded."""
    return plan(observed).status


def test_data_of_validation_and_test_and_a_parent_are_what_an_experiment_depends_on() -> None:
    spec = our_object(
        EXPERIMENT,
        model=PARENT,
        dataset={"name": "a", "validationName": "b", "testName": "a"},
    ).spec
    assert depends_on(spec) == ((DATASET, "a"), (DATASET, "b"), (EXPERIMENT, "parent"))


@pytest.mark.parametrize("field", ["validationName", "testName"])
def test_a_dataset_of_its_own_is_waited_for_and_pinned(field: str) -> None:
    data = {"name": builders.NAMES[DATASET], field: "held-out"}
    waiting = asked({named(DATASET, "held-out"): None}, dataset=data)
    assert condition(plan(waiting), "DependenciesReady") == ("False", "DependencyNotFound")
    assert "Dataset held-out does not exist" in message(plan(waiting))
    other = ready_dataset(digest=digest("9"))
    pinned = begun(asked({named(DATASET, "held-out"): other}, dataset=data))
    assert pinned[field.replace("Name", "Dataset")]["digest"] == digest("9")


def test_the_job_reads_every_snapshot_that_was_pinned() -> None:
    data = {"name": builders.NAMES[DATASET], "validationName": "held-out"}
    held_out = ready_dataset(digest=digest("9"))
    held_out = held_out.model_copy(
        update={"metadata": held_out.metadata.model_copy(update={"name": "held-out"})}
    )
    observed = asked({named(DATASET, "held-out"): held_out}, dataset=data)
    answer = plan(builders.published(observed, plan(observed)))
    config = json.loads(builders.child(answer, "ConfigMap")["data"]["config.json"])
    assert config["validation"]["digest"] == digest("9")
    assert config["validation"]["name"] == "held-out"


def test_documents_do_not_suit_conversations_nor_the_other_way_round() -> None:
    texts = {DATASET_KEY: ready_dataset(recordType="Text")}
    assert condition(plan(asked(texts)), "Planned")[1] == "IncompatibleDataset"
    assert condition(plan(asked({}, problemType="Pretraining")), "Planned") == (
        "False",
        "IncompatibleDataset",
    )
    assert begun(asked(texts, problemType="Pretraining"))["preparation"]["attempt"] == 1


def test_a_parent_is_waited_for_until_it_is_complete() -> None:
    running = our_object(EXPERIMENT, status={"conditions": conditions(Ready="False Training")})
    found = plan(asked({named(EXPERIMENT, "parent"): running}, model=PARENT))
    assert condition(found, "DependenciesReady") == ("False", "DependencyNotReady")
    assert found.waits_for == (DATASET_KEY, named(EXPERIMENT, "parent"))


def test_a_checkpoint_that_the_parent_does_not_keep_is_refused_by_name() -> None:
    source = {"fromExperiment": {"name": "parent", "checkpoint": "Step", "step": 7}}
    found = plan(asked({named(EXPERIMENT, "parent"): parent()}, model=source))
    assert condition(found, "Planned") == ("False", "CheckpointNotFound")
    assert "keeps no checkpoint Step" in message(found)


def test_the_parents_checkpoint_and_base_are_pinned_and_mounted() -> None:
    observed = asked({named(EXPERIMENT, "parent"): parent()}, model=PARENT)
    status = begun(observed)
    assert status["start"]["base"]["volumeClaim"]["claimName"] == "models"
    assert [one["digest"] for one in status["start"]["ancestors"]] == [digest("e")]
    children = plan(builders.published(observed, plan(observed))).apply
    pod = children[-1]["spec"]["template"]["spec"]
    claims = {
        v["persistentVolumeClaim"]["claimName"]
        for v in pod["volumes"]
        if "persistentVolumeClaim" in v
    }
    assert claims == {"models", "artifacts"}
    assert children[-1]["metadata"]["name"].endswith("-p1")


def started(found: Any, handover: AdapterHandover) -> Start:
    """Return the start of a child of `found`."""
    checkpoint = found.status.checkpoints.latest or found.status.result
    return start_from(found, checkpoint, handover, builders.POLICY)


def test_an_adapter_that_the_parent_continued_is_part_of_the_parents_own() -> None:
    first = started(parent(), AdapterHandover.CONTINUE)
    second = started(
        parent(start=json.loads(first.model_dump_json(by_alias=True, exclude_none=True))),
        AdapterHandover.MERGE,
    )
    assert [one.handover for one in second.ancestors] == [AdapterHandover.MERGE]
    third = started(
        parent(start=json.loads(second.model_dump_json(by_alias=True, exclude_none=True))),
        AdapterHandover.CONTINUE,
    )
    assert [one.handover for one in third.ancestors] == [
        AdapterHandover.MERGE,
        AdapterHandover.CONTINUE,
    ]


def test_full_weights_replace_everything_before_them() -> None:
    first = started(parent(), AdapterHandover.MERGE)
    full = parent(
        start=json.loads(first.model_dump_json(by_alias=True, exclude_none=True)),
        result=builders.RESULT | {"kind": "Model"},
    )
    assert [one.kind for one in started(full, AdapterHandover.CONTINUE).ancestors] == ["Model"]


def test_the_commit_of_a_hub_model_is_kept_from_the_parent() -> None:
    found = parent(
        spec={"model": {"name": "org/base"}}, model=builders.MODEL | {"commit": "c0ffee"}
    )
    assert started(found, AdapterHandover.CONTINUE).base.revision == "c0ffee"


def test_an_own_template_is_mounted_as_a_file_whose_place_is_told() -> None:
    own = {"template": "Custom", "templateRef": {"name": "chat", "key": "support.jinja"}}
    observed = asked({}, prompt=own)
    children = plan(builders.published(observed, plan(observed))).apply
    pod = children[-1]["spec"]["template"]["spec"]
    [volume] = [one for one in pod["volumes"] if one["name"] == "template"]
    item = {"key": "support.jinja", "path": "template.jinja"}
    assert volume["configMap"] == {"name": "chat", "items": [item]}
    [container] = pod["containers"]
    env = {one["name"]: one.get("value") for one in container["env"]}
    [mount] = [one for one in container["volumeMounts"] if one["name"] == "template"]
    assert env["FINETUNE_TEMPLATE"] == f"{mount['mountPath']}/template.jinja"
