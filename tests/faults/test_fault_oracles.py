"""The oracles bite, equal ends compare as equal, and a plan's line is the plan."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from harness.fault_proxy import Call, Noted

from faults.fault_oracles import (
    Invariants,
    no_secret_is_told,
    nothing_is_orphaned,
    the_log_is_clean,
)
from faults.fault_plan import Plan, plan_of
from faults.normal_form import differences, normal_form
from faults.plan_choice import cuts, kills, pairs
from finetune_api.names import (
    ATTEMPT_LABEL,
    COMPONENT_LABEL,
    FIELD_MANAGER,
    MANAGED_BY_LABEL,
    OWNER_UID_ANNOTATION,
)

Json = dict[str, Any]


def pod(attempt: int, phase: str = "Running", kind: str = "MODIFIED") -> Json:
    metadata = {
        "name": f"run-a{attempt}-0-abcde", "uid": f"pod-{attempt}",
        "labels": {ATTEMPT_LABEL: str(attempt), COMPONENT_LABEL: "attempt"},
        "annotations": {OWNER_UID_ANNOTATION: "u"},
    }  # fmt: skip
    return {
        "type": kind,
        "object": {"kind": "Pod", "metadata": metadata, "status": {"phase": phase}},
    }


def run(attempt: int, step: int = 0, restarts: int = 0) -> Json:
    status = {
        "revision": 1, "attempt": {"number": attempt}, "restarts": {"unknown": restarts},
        "checkpoints": {"latest": {"step": step}},
    }  # fmt: skip
    found = {"kind": "FineTuneExperiment", "metadata": {"name": "run", "uid": "u"}}
    return {"type": "MODIFIED", "object": {**found, "status": status}}


def broken(*events: Json) -> list[str]:
    invariants = Invariants()
    for event in events:
        invariants.seen(event)
    return invariants.broken


def test_a_second_attempt_beside_a_running_one_is_found():
    assert broken(pod(1), pod(2)) == ["two attempts at once: [1, 2]"]


@pytest.mark.parametrize("end", [pod(1, "Failed"), pod(1, kind="DELETED")])
def test_an_attempt_after_the_end_of_the_last_one_is_fine(end):
    assert broken(pod(1), end, pod(2)) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [(run(2), run(1)), (run(1, step=40), run(1, step=30)), (run(1, restarts=1), run(1))],
    ids=["attempt", "checkpoint", "restarts"],
)
def test_what_goes_back_is_found(before, after):
    assert len(broken(before, after)) == 1
    assert broken(after, before) == []


def test_a_step_behind_the_last_checkpoint_is_found():
    behind, level = run(1, step=40), run(1, step=40)
    behind["object"]["status"]["progress"] = {"step": 30}
    level["object"]["status"]["progress"] = {"step": 40}
    assert broken(behind) == ["step 30 is shown, the checkpoint holds 40"]
    assert broken(level) == []


def test_a_child_whose_owner_is_gone_is_an_orphan():
    child = {
        "kind": "Job",
        "metadata": {"name": "run-a1", "uid": "j", "labels": {MANAGED_BY_LABEL: FIELD_MANAGER},
                     "ownerReferences": [{"uid": "u", "kind": "FineTuneExperiment"}]},
    }  # fmt: skip
    assert nothing_is_orphaned([child]) == ["orphan: Job run-a1"]
    assert nothing_is_orphaned([child, run(1)["object"]]) == []


def test_an_error_in_the_log_is_found_unless_the_plan_provokes_it():
    lines = [json.dumps({"level": "error", "event": "the operator ends"}), '{"level": "info"}']
    assert len(the_log_is_clean(lines)) == 1
    assert the_log_is_clean(lines, ["the operator ends"]) == []
    assert len(the_log_is_clean(["Traceback (most recent call last):"])) == 1


def test_a_secret_is_found_wherever_it_stands():
    assert no_secret_is_told(["abc"], {"log": "xabcx", "events": ""}) == ["a secret is told in log"]


def finished(uid: str, namespace: str, reason: str = "Completed") -> Json:
    condition = {"type": "Ready", "status": "True", "reason": reason, "message": uid}
    status = {"fence": len(uid), "conditions": [condition], "uri": f"pvc://c/{namespace}/run-{uid}",
              "completionTime": f"2026-01-01T00:00:0{len(uid)}Z"}  # fmt: skip
    metadata = {"name": "run", "uid": uid, "resourceVersion": uid}
    return {"kind": "FineTuneExperiment", "metadata": metadata, "spec": {}, "status": status}


def test_ends_that_differ_in_names_and_times_only_are_equal():
    one = normal_form([finished("u-1", "first")], "first")
    other = normal_form([finished("u-22", "second")], "second")
    assert differences(one, other) == []
    worse = normal_form([finished("u-22", "second", "Disrupted")], "second")
    assert len(differences(one, worse)) == 1
    assert len(differences(one, {})) == 1


def test_a_plan_is_its_line():
    plan = Plan("run", "kill", {"call": {"verb": "patch", "resource": "jobs"}, "moment": "before"})
    assert plan_of(plan.line()) == plan
    with pytest.raises(ValueError, match="not a plan"):
        plan_of('{"scenario": "run", "mode": "hope"}')


def test_writes_that_change_nothing_and_states_that_cancel_nothing_give_no_plan():
    write = Noted(Call("patch", "jobs", "run-a1"), 201, changed=True)
    event = Noted(Call("create", "events", "Started"), 201, changed=True)
    same = Noted(Call("patch", "services", "run"), 200, changed=False)
    lease = Noted(Call("patch", "leases", "operator"), 200, changed=True)
    refused = replace(write, status=409)
    noted = [write, event, same, lease, refused]
    assert [where["moment"] for where in kills(noted)] == ["before", "applied"]
    assert len(cuts(noted)) == 4
    words = ["Pod a Pending", "Pod a Pending", "Job b", "Pod a Running", "Pod a Running"]
    assert pairs(words) == [{"since": "Pod a Pending", "until": "Pod a Running"}]
