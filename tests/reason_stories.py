"""Stories that end in a reason: what is observed last, and what people then read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import builders
import good_ends
from builders import (
    DATASET,
    EXPERIMENT,
    EXPORT,
    NOW,
    attempt,
    ended_pod,
    job,
    observed,
    our_object,
    outcome,
    pod,
    prepared,
    progress,
)
from finetune_api.run_outcome import FailureClass, Outcome
from finetune_operator.observed import Observed, Plan, PodFacts
from finetune_operator.planners import plan
from observed_runs import (
    preparing,
    running,
    seen,
)

READY_FALSE, PREPARATION = "False", (EXPERIMENT, "prepare")
DATA, RUN, RELEASE = (DATASET, "attempt"), (EXPERIMENT, "attempt"), (EXPORT, "attempt")
SPENT = {"unknown": 3, "peerLost": 5, "disruption": 100, "externalService": 3, "startTimeout": 5}


@dataclass(frozen=True)
class Case:
    """The answer to a story, the conditions it turns and the words it must hold."""

    plan: Plan
    says: Mapping[str, str]
    """says is status and reason by type of condition."""
    words: tuple[str, ...] = ()
    """words stand in the message of the first condition that is named."""
    failure: FailureClass | None = None
    """failure is the class of the end that is recorded, with its exit code."""
    events: tuple[str, ...] = field(default=())


def final(reason: str, *conditions: str) -> dict[str, str]:
    """Return what a failure that is final turns."""
    turned = dict.fromkeys(conditions, f"False {reason}")
    told = {"Ready": f"False {reason}", "Failed": f"True {reason}", "Stalled": f"True {reason}"}
    return told | turned


def refused(reason: str, *conditions: str) -> dict[str, str]:
    """Return what a refusal turns: it recovers when its cause is gone."""
    turned = dict.fromkeys(conditions, f"False {reason}")
    told = {"Ready": f"False {reason}", "Stalled": f"True {reason}", "Failed": "False Pending"}
    return told | turned


def waiting(reason: str, *, on: str, stage: str) -> dict[str, str]:
    """Return what waiting says: the stage in Ready, the cause in its condition."""
    return {on: f"False {reason}", "Ready": f"False {stage}", "Reconciling": f"True {stage}"}


def under_way(work: tuple[str, str], *pods: PodFacts, **facts: Any) -> Observed:
    """Return a work whose first attempt is under way, every budget but its last retry spent."""
    kind, component = work
    found = job(kind, 1, *pods, component=component, **facts)
    if component == "prepare":
        return seen(preparing() | {"restarts": SPENT}, found)
    if kind == EXPERIMENT:
        return seen(prepared(**attempt(), restarts=SPENT), found)
    status = {"attempt": {"number": 1}, "children": {"job": found.ref.name}, "restarts": SPENT}
    return observed(kind, our_object(kind, status=status), jobs=(found,))


def said(
    reason: str, failure: FailureClass, work: tuple[str, str], *conditions: str, text: str
) -> Case:
    """Return the story of a pod that names its reason with its last word."""
    what, _, remedy = text.partition("; ")
    told = outcome(failure, reason=reason, message=what, remedy=remedy)
    ends = ended_pod(0, failure, outcome=told)
    return Case(
        plan(under_way(work, ends, failed=True)),
        final(reason, *conditions),
        (what, remedy),
        failure,
    )


def unsaid(
    reason: str, failure: FailureClass, work: tuple[str, str], one: PodFacts, *words: str
) -> Case:
    """Return the story of a pod whose end the operator has to explain itself."""
    peer = ended_pod(1, FailureClass.PEER_LOST) if work == RUN else None
    pods = (one, peer) if peer else (one,)
    return Case(plan(under_way(work, *pods, failed=True)), final(reason), words, failure)


def held(reason: str, work: tuple[str, str], *words: str, stage: str, **facts: Any) -> Case:
    """Return the story of pods that cannot run yet."""
    pods = facts.pop("pods", ())
    answer = plan(under_way(work, *pods, **facts))
    on = "QuotaReserved" if reason == "WaitingForQuota" else "PodsReady"
    return Case(answer, waiting(reason, on=on, stage=stage), words)


def asleep(why: str, message: str, **facts: Any) -> PodFacts:
    """Return a pod that waits for something."""
    return pod(0, "Pending", ready=False, waiting=(why, message), **facts)


def without_volumes() -> PodFacts:
    """Return a pod on a node that waits for its volumes; events say why."""
    return asleep("ContainerCreating", "")


def in_queue(*pods: PodFacts, **facts: Any) -> Observed:
    """Return a run whose Job belongs to a queue."""
    found = running(*pods, **facts)
    return seen(prepared(**attempt()), found, scheduling={"queueName": "gpus"})


def deadline(reason: str, *words: str, policy: dict[str, Any], **status: Any) -> Case:
    """Return the story of an attempt that was stopped for a deadline and has ended."""
    told = attempt() | {"children": {"job": "assistant-a1"}}
    recorded = told["attempt"] | {"stopping": reason, "createdTime": at(-7200)} | status
    found = seen(
        prepared(attempt=recorded, children=told["children"], restarts=SPENT),
        running(ended_pod(0, FailureClass.CHECKPOINTED, gone=True), gone=True),
        runPolicy=policy,
    )
    classes = {
        "StartTimeout": FailureClass.START_TIMEOUT,
        "BudgetExhausted": FailureClass.BUDGET,
    }
    failure = classes.get(reason, FailureClass.DEADLINE)
    return Case(plan(found), final(reason), words, failure)


def at(seconds: int) -> str:
    """Return a time before or after the tests' present."""
    return (NOW + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def shown(reason: str, found: Observed, *words: str, **more: str) -> Case:
    """Return the story of an object that is at work."""
    status = "True" if reason in ("Completed", "EarlyStopped", "Ready") else "False"
    return Case(plan(found), {"Ready": f"{status} {reason}"} | more, words)


def told_by_event(reason: str, found: Observed, *words: str, ready: str) -> Case:
    """Return the story of a transition that an event tells."""
    return Case(plan(found), {"Ready": f"False {ready}"}, words, events=(reason,))


def at_stage(work: tuple[str, str], phase: str) -> Observed:
    """Return a work whose pod reports a stage."""
    told = progress(phase).model_copy(update={"run": f"{builders.UIDS[work[0]]}/1"})
    return under_way(work, pod(0), *((pod(1),) if work == RUN else ()), progress=told)


def done(work: tuple[str, str], **changes: Any) -> Observed:
    """Return a work whose Job has completed."""
    told: Outcome = good_ends.GOOD_ENDS[work]().model_copy(update=changes)
    pods = [ended_pod(0, FailureClass.COMPLETED, outcome=told)]
    pods += [pod(1, "Succeeded", exit_code=0)] if work == RUN else []
    return under_way(work, *pods, complete=True)
