"""Puts an object's Jobs and Pods together, and tells them from those of a predecessor."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from finetune_api.names import JOB_SET, OWNER_UID_ANNOTATION
from finetune_api.run_progress import Progress
from finetune_operator.child_facts import (
    CREATING,
    controller,
    job_facts,
    job_uid,
    pod_facts,
    vanished_job,
)
from finetune_operator.object_cache import ObjectCache
from finetune_operator.observed import ChildRef, JobFacts, Key, Manifest, PodFacts

HEADWAY_SECONDS = 15.0
"""A Job whose pods do not exist, or not start, for so long is asked for the reason."""


class GatheredChildren:
    """Children of one object: those of the cache, and those read live in addition."""

    def __init__(self, owner: Key, owner_uid: str, cache: ObjectCache) -> None:
        self._name, self._uid, self._cache = owner.name, owner_uid, cache
        self._jobs: dict[str, tuple[Manifest, bool]] = {}
        self._pods: dict[str, tuple[Manifest, bool]] = {}
        self._messages: dict[str, str] = {}
        self._facts: tuple[JobFacts, ...] | None = None
        for kind, known in (("Job", self._jobs), (JOB_SET, self._jobs), ("Pod", self._pods)):
            for child in cache.children(owner, kind):
                known[child.key[2]] = (child.manifest(), child.gone)

    def note(self, job_uid: str, message: str) -> None:
        """Add what events say of a Job."""
        self._messages[job_uid] = message
        self._facts = None

    def add(self, live: Manifest) -> None:
        """Add what a live read has shown; it is newer than the cache."""
        known = self._pods if live["kind"] == "Pod" else self._jobs
        known[live["metadata"]["uid"]] = (live, False)
        self._facts = None

    def has_job(self, name: str) -> bool:
        """Tell whether a Job of this name and owner is known."""
        return any(self._owns(job) and _name(job) == name for job, _ in self._jobs.values())

    def jobs(self) -> tuple[JobFacts, ...]:
        """Return the object's Jobs, and one for each group of its pods whose Job is not known."""
        if self._facts is None:
            self._facts = self._judged()
        return self._facts

    def _judged(self) -> tuple[JobFacts, ...]:
        pods: dict[str, list[PodFacts]] = {}
        orphans: dict[str, Manifest] = {}
        for pod, gone in self._pods.values():
            if not self._is_own_pod(pod):
                continue
            of = job_uid(pod)
            if of not in self._jobs and not self._is_of_vanished_job(pod):
                continue
            pods.setdefault(of, []).append(pod_facts(pod, gone=gone))
            if of not in self._jobs:
                orphans.setdefault(of, vanished_job(pod))
        known = {uid: (job, gone) for uid, (job, gone) in self._jobs.items() if self._owns(job)} | {
            uid: (job, True) for uid, job in orphans.items()
        }
        return tuple(
            job_facts(
                job,
                pods.get(uid, ()),
                gone=gone,
                progress=self._progress(job, pods.get(uid, ())),
                message=self._messages.get(uid, ""),
                inner=self._inside(uid),
            )
            for uid, (job, gone) in sorted(known.items())
        )

    def predecessor_pods(self) -> int:
        """Return the number of pods of a deleted object of the same name that may still run."""
        strangers = (
            pod_facts(pod, gone=gone)
            for pod, gone in self._pods.values()
            if not self._is_own_pod(pod)
        )
        return sum(pod.may_run for pod in strangers)

    def _owns(self, job: Manifest) -> bool:
        return bool(controller(job).get("uid") == self._uid)

    def _inside(self, uid: str) -> Manifest | None:
        """Return the Job that a JobSet has made."""
        return next(
            (job for job, _ in self._jobs.values() if controller(job).get("uid") == uid), None
        )

    def _is_own_pod(self, pod: Manifest) -> bool:
        annotations = pod["metadata"].get("annotations") or {}
        return bool(annotations.get(OWNER_UID_ANNOTATION, self._uid) == self._uid)

    def _is_of_vanished_job(self, pod: Manifest) -> bool:
        """Labels are anybody's: our annotation and a Job by a name of ours must be there too."""
        annotations, holder = pod["metadata"].get("annotations") or {}, controller(pod)
        ours = holder.get("kind") == "Job" and holder["name"].startswith(f"{self._name}-")
        return bool(ours and annotations.get(OWNER_UID_ANNOTATION) == self._uid)

    def _progress(self, job: Manifest, pods: Iterable[PodFacts]) -> Progress | None:
        """Return what the Job's present pods answered; those it had before a stop are history."""
        run = f"{self._uid}/{job_facts(job).attempt}"
        told = (self._cache.progress(pod.uid) for pod in pods if not pod.gone)
        return next((one for one in told if one and one.run == run), None)


def headway_seconds(job: JobFacts, now: datetime) -> float | None:
    """Return until when a Job that makes no headway is given time; None if it needs none."""
    if job.gone or job.complete or job.failed or job.created is None:
        return None
    if job.pods and held_pod(job) is None:
        return None
    return (job.created - now).total_seconds() + HEADWAY_SECONDS


def held_pod(job: JobFacts) -> PodFacts | None:
    """Return the first pod on a node whose volumes are awaited: its status does not say why."""
    pods = () if job.suspended else job.pods
    held = (pod for pod in pods if pod.bound and pod.may_run and not pod.deleting)
    return next((pod for pod in held if pod.waiting and pod.waiting[0] == CREATING), None)


def asked_about(job: JobFacts) -> ChildRef:
    """Return the child whose events say what keeps a Job from making headway."""
    pod = held_pod(job)
    if pod is not None:
        return ChildRef("v1", "Pod", job.ref.namespace, pod.name, pod.uid, "")
    return job.inner if job.inner and not job.suspended else job.ref


def _name(manifest: Manifest) -> str:
    return str(manifest["metadata"]["name"])
