"""A cluster of values for planner tests: plays API server, Job controller and kubelet in memory.

The operator may be killed after any of its writes. What it only remembered is lost then, what it
wrote stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

import builders
import good_ends
from finetune_api.names import ATTEMPT_LABEL, COMPONENT_LABEL, REVISION_LABEL
from finetune_api.run_outcome import FailureClass
from finetune_operator.observed import ChildRef, JobFacts, Manifest, Observed, PodFacts
from finetune_operator.planners import plan

Script = Mapping[tuple[str, int], tuple[PodFacts, ...]]
"""How the pods of (component, attempt) end."""
FAILED_CODES = (10, 11, 12, 20, 21, 22, 30)


class KilledError(Exception):
    """The operator was killed after a write."""


@dataclass
class PlayedCluster:
    """One object of ours and its Jobs; `step` is the operator, `pass_time` everybody else."""

    observed: Observed
    script: Script
    kill_after: frozenset[int] = frozenset()
    """kill_after: numbers of writes after which the operator is killed."""
    writes: int = 0
    jobs: dict[str, JobFacts] = field(default_factory=dict)
    applied: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)

    def step(self) -> None:
        """Make one reconcile step; a kill ends it early and clears what was remembered."""
        seen = replace(self.observed, jobs=tuple(self.jobs.values()))
        decided = plan(seen)
        try:
            for child in decided.apply:
                self._apply(child)
                self._wrote()
            for ref in decided.delete:
                self._delete(ref)
                self._wrote()
            if decided.status != plan_status(self.observed):
                self.observed = builders.published(self.observed, decided)
                self.numbers.append(self.observed.object.status.attempt.number)
                self._wrote()
        except KilledError:
            self.jobs = {name: _unremembered(job) for name, job in self.jobs.items()}
            self.jobs = {name: job for name, job in self.jobs.items() if not job.gone or job.pods}

    def pass_time(self) -> None:
        """Let every Job and pod go on by one state."""
        self.observed = replace(self.observed, now=self.observed.now + timedelta(seconds=5))
        self.jobs = {name: self._advanced(job) for name, job in self.jobs.items()}

    def may_run(self) -> set[tuple[str, int]]:
        """Return the attempts of which a pod may still run."""
        return {(job.component, job.attempt) for job in self.jobs.values() if job.may_run}

    def _wrote(self) -> None:
        self.writes += 1
        if self.writes in self.kill_after:
            raise KilledError

    def _apply(self, child: Manifest) -> None:
        name = child["metadata"]["name"]
        self.applied.append(f"{child['kind']} {name}")
        if child["kind"] != "Job" or (name in self.jobs and not self.jobs[name].gone):
            return
        labels = child["metadata"]["labels"]
        ref = ChildRef("batch/v1", "Job", builders.NAMESPACE, name, f"uid-{name}", "1")
        pods = tuple(
            builders.pod(index, "Pending", bound=False, ready=False)
            for index in range(child["spec"]["completions"])
        )
        number, component = int(labels[ATTEMPT_LABEL]), labels[COMPONENT_LABEL]
        revision = int(labels.get(REVISION_LABEL, "1"))
        self.jobs[name] = JobFacts(
            ref=ref, attempt=number, component=component, revision=revision, pods=pods
        )

    def _delete(self, ref: ChildRef) -> None:
        job = self.jobs[ref.name]
        since = self.observed.now + timedelta(seconds=30)
        pods = tuple(
            replace(pod, deleting=True, deleting_since=since) if pod.may_run else pod
            for pod in job.pods
        )
        self.jobs[ref.name] = replace(job, gone=True, pods=pods)

    def _advanced(self, job: JobFacts) -> JobFacts:
        ends = self.script.get((job.component, job.attempt)) or self._good_end(job)
        pods = tuple(_next_state(pod, ends[pod.index]) for pod in job.pods)
        if job.gone or job.complete or job.failed:
            return replace(job, pods=pods)
        if any(pod.phase == "Failed" for pod in pods):
            return replace(job, failed=True, pods=tuple(_deleted(pod, self) for pod in pods))
        return replace(job, pods=pods, complete=all(pod.phase == "Succeeded" for pod in pods))

    def _good_end(self, job: JobFacts) -> tuple[PodFacts, ...]:
        told = good_ends.GOOD_ENDS[self.observed.key.kind, job.component]()
        count = len(job.pods)
        return tuple(
            builders.ended_pod(index, FailureClass.COMPLETED, outcome=told)
            for index in range(count)
        )


def plan_status(observed: Observed) -> Manifest:
    """Return the stored status in the form in which plans say it."""
    from finetune_operator.status import as_json

    return as_json(observed.object.status)


def _next_state(pod: PodFacts, end: PodFacts) -> PodFacts:
    if not pod.may_run:
        return pod
    if pod.deleting:
        stopped = builders.ended_pod(pod.index, FailureClass.CHECKPOINTED)
        return replace(stopped, deleting=True, deleting_since=pod.deleting_since, gone=True)
    if not pod.bound:
        return replace(pod, bound=True)
    if pod.phase == "Pending":
        return replace(pod, phase="Running", ready=True)
    return end


def _deleted(pod: PodFacts, cluster: PlayedCluster) -> PodFacts:
    if not pod.may_run or pod.deleting:
        return pod
    return replace(pod, deleting=True, deleting_since=cluster.observed.now)


def _unremembered(job: JobFacts) -> JobFacts:
    return replace(job, pods=tuple(pod for pod in job.pods if not pod.gone))
