"""Turns the facts of all ranks into one failure class, a reason and a sentence.

A cause beats its consequences: when one rank runs out of memory, its peers lose it and the Job
controller deletes them; neither is why the attempt ended.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from finetune_api.conditions import FAILURE_REASONS
from finetune_api.run_outcome import CLASS_OF_EXIT_CODE, EXIT_CODES, FailureClass, Outcome
from finetune_operator.observed import JobFacts, PodFacts

REASONS: dict[FailureClass, str] = {
    FailureClass.CONFIGURATION: "ConfigurationError",
    FailureClass.DATA: "InvalidData",
    FailureClass.ACCESS: "AccessDenied",
    FailureClass.GPU_OUT_OF_MEMORY: "OutOfGPUMemory",
    FailureClass.RESOURCES_EXHAUSTED: "OutOfHostMemory",
    FailureClass.NOT_FINITE: "NonFiniteLoss",
    FailureClass.EXTERNAL_SERVICE: "ServiceUnavailable",
    FailureClass.PEER_LOST: "PeerLost",
    FailureClass.DISRUPTION: "Disrupted",
    FailureClass.UNKNOWN: "UnknownError",
    FailureClass.HANG: "Hang",
    FailureClass.START_TIMEOUT: "StartTimeout",
    FailureClass.DEADLINE: "DeadlineExceeded",
    FailureClass.BUDGET: "BudgetExhausted",
}
"""The reason of a class when the outcome names none that is known."""
_CAUSES = tuple(
    failure
    for failure, code in sorted(EXIT_CODES.items(), key=lambda item: item[1])
    if 10 <= code < EXIT_CODES[FailureClass.PEER_LOST]
)
_EXIT_CODE = re.compile(r"exit code (\d+)")
_STOPPED = (EXIT_CODES[FailureClass.CHECKPOINTED], EXIT_CODES[FailureClass.PEER_LOST])


@dataclass(frozen=True)
class End:
    """Why an attempt ended."""

    failure: FailureClass
    reason: str
    message: str
    exit_code: int | None = None
    rank: int | None = None
    step: int | None = None
    outcome: Outcome | None = None


def end_of(job: JobFacts) -> End:
    """Return why a Job that did not reach its good end has ended."""
    for evidence in _EVIDENCE:
        if (end := evidence(job)) is not None:
            return end
    return End(FailureClass.UNKNOWN, "UnknownError", job.failure_message or _why(job))


def failure_of(pod: PodFacts) -> FailureClass | None:
    """Return the class a pod's own word or exit code names; None if it said nothing."""
    if pod.outcome is not None:
        return pod.outcome.failure_class
    return None if pod.exit_code is None else CLASS_OF_EXIT_CODE.get(pod.exit_code)


def vanished(name: str) -> End:
    """Return the end of an attempt whose Job and pods nobody can ask any more."""
    message = f"Job {name} vanished before its end was seen"
    return End(FailureClass.UNKNOWN, "UnknownError", message)


def _a_named_cause(job: JobFacts) -> End | None:
    """The lowest exit code first: what is wrong with the spec explains what came of it."""
    for cause in _CAUSES:
        for pod in job.pods:
            if failure_of(pod) is cause:
                return _end(cause, pod)
    return None


def _memory_ran_out(job: JobFacts) -> End | None:
    pod = _first(job.pods, lambda pod: pod.out_of_memory)
    if pod is None:
        return None
    limit = f" of {pod.memory_limit}" if pod.memory_limit else ""
    message = f"the container was killed at its memory limit{limit}; raise compute.resources"
    return _end(FailureClass.RESOURCES_EXHAUSTED, pod, message=message)


def _a_disk_ran_full(job: JobFacts) -> End | None:
    """A pod evicted for its own use of a disk; eviction for others' sake is a disruption."""
    pod = _first(job.pods, lambda pod: pod.reason == "Evicted" and not pod.disrupted)
    message = "the pod was evicted for its own use of local disk"
    return None if pod is None else _end(FailureClass.RESOURCES_EXHAUSTED, pod, "NoSpace", message)


def _a_pod_was_taken_away(job: JobFacts) -> End | None:
    pod = _first(job.pods, lambda pod: pod.disrupted)
    message = "the pod was drained, evicted or preempted"
    return None if pod is None else _end(FailureClass.DISRUPTION, pod, message=message)


def _a_rank_died_by_itself(job: JobFacts) -> End | None:
    pod = _first(job.pods, _died)
    return None if pod is None else _end(FailureClass.UNKNOWN, pod)


def _a_hang_was_seen(job: JobFacts) -> End | None:
    """The pod that saw it ends first; the Job controller then deletes the others."""
    pod = _first(job.pods, _saw_a_hang)
    return None if pod is None else _end(FailureClass.PEER_LOST, pod)


def _a_peer_was_lost_before_a_pod_was_stopped(job: JobFacts) -> End | None:
    """The Job controller judges first, then deletes the others: that stop is a consequence."""
    stopped = [pod for pod in job.pods if _was_stopped(pod)]
    own = _first(job.pods, lambda pod: _lost_a_peer(pod) and pod not in stopped)
    if own is None or not all(_stopped_by_its_job(pod, job) for pod in stopped):
        return None
    return _end(FailureClass.PEER_LOST, own)


def _a_pod_was_stopped(job: JobFacts) -> End | None:
    """A pod deleted by somebody, or ended by a SIGTERM that nobody asked for."""
    pod = _first(job.pods, _was_stopped)
    return (
        None
        if pod is None
        else _end(FailureClass.DISRUPTION, pod, message="the pod was stopped from outside")
    )


def _a_peer_was_lost(job: JobFacts) -> End | None:
    pod = _first(job.pods, _lost_a_peer)
    return None if pod is None else _end(FailureClass.PEER_LOST, pod)


def _only_the_job_speaks(job: JobFacts) -> End | None:
    """The Job's own message is what is left when its pods are gone."""
    if any(pod.exit_code is not None for pod in job.pods) or not job.failure_message:
        return None
    if "DisruptionTarget" in job.failure_message:
        return End(FailureClass.DISRUPTION, "Disrupted", job.failure_message)
    code = _EXIT_CODE.search(job.failure_message)
    failure = CLASS_OF_EXIT_CODE.get(int(code[1]) if code else 1, FailureClass.UNKNOWN)
    if failure is FailureClass.CHECKPOINTED:
        failure = FailureClass.DISRUPTION
    failure = failure if failure in REASONS else FailureClass.UNKNOWN
    return End(failure, REASONS[failure], job.failure_message)


_EVIDENCE: tuple[Callable[[JobFacts], End | None], ...] = (
    _a_named_cause,
    _memory_ran_out,
    _a_disk_ran_full,
    _a_pod_was_taken_away,
    _a_rank_died_by_itself,
    _only_the_job_speaks,
    _a_hang_was_seen,
    _a_peer_was_lost_before_a_pod_was_stopped,
    _a_pod_was_stopped,
    _a_peer_was_lost,
)


def _end(failure: FailureClass, pod: PodFacts, reason: str = "", message: str = "") -> End:
    said = pod.outcome
    named = said.reason if said and said.reason in FAILURE_REASONS else ""
    text = ": ".join(part for part in (said.message, said.remedy) if part) if said else ""
    return End(
        failure,
        reason or named or REASONS[failure],
        text or message or _exit_text(pod),
        exit_code=pod.exit_code,
        rank=said.rank if said else pod.index,
        step=said.step if said else None,
        outcome=said,
    )


def _died(pod: PodFacts) -> bool:
    """A failed pod that nobody was about to stop, and that does not only report a lost peer."""
    failed = pod.phase == "Failed" and not pod.deleting and pod.exit_code is not None
    return failed and pod.exit_code not in _STOPPED


def _saw_a_hang(pod: PodFacts) -> bool:
    return pod.outcome is not None and pod.outcome.reason == "Hang"


def _lost_a_peer(pod: PodFacts) -> bool:
    return failure_of(pod) is FailureClass.PEER_LOST


def _stopped_by_its_job(pod: PodFacts, job: JobFacts) -> bool:
    asked, judged = pod.deletion_asked, job.failed_since
    return asked is not None and judged is not None and asked >= judged


def _was_stopped(pod: PodFacts) -> bool:
    taken = (pod.deleting or pod.gone) and pod.phase != "Succeeded"
    return taken or failure_of(pod) is FailureClass.CHECKPOINTED


def _first(pods: Iterable[PodFacts], holds: Callable[[PodFacts], bool]) -> PodFacts | None:
    return next((pod for pod in pods if holds(pod)), None)


def _exit_text(pod: PodFacts) -> str:
    if pod.exit_code is None:
        return f"pod {pod.name} ended without a word"
    return f"pod {pod.name} ended with exit code {pod.exit_code}"


def _why(job: JobFacts) -> str:
    if job.complete:
        return f"Job {job.ref.name} completed without saying what it reached"
    return f"Job {job.ref.name} ended without a word"
