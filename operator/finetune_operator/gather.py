"""Which reads make an Observed: the cache, and the server itself where staleness could destroy.

Read live are: references the cache does not have, the Job that comes next when the cache does not
have it but it could exist, and the pods before a new attempt follows an old one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache

from pydantic import ValidationError

from finetune_api.dataset import Dataset
from finetune_api.finetune_experiment import ExperimentSpec, FineTuneExperiment
from finetune_api.model_export import ModelExport
from finetune_api.names import (
    DATASET,
    EXPERIMENT,
    EXPORT,
    JOB_SET,
    OWNER_LABELS,
    attempt_job,
    dataset_job,
    export_job,
    preparation_job,
)
from finetune_operator.child_facts import controller, project
from finetune_operator.cluster.cluster_protocol import Cluster, Resource
from finetune_operator.cluster.resources import JOB_SETS, JOBS, OPTIONAL, OURS, PODS
from finetune_operator.errors import MalformedError
from finetune_operator.gathered_children import GatheredChildren, asked_about, headway_seconds
from finetune_operator.object_cache import ObjectCache, owner_key
from finetune_operator.observed import JobFacts, Key, Manifest, Observed, OurObject, Policy
from finetune_operator.status import is_final

_MODELS: dict[str, type[Dataset | FineTuneExperiment | ModelExport]] = {
    DATASET: Dataset,
    EXPERIMENT: FineTuneExperiment,
    EXPORT: ModelExport,
}


class Gather:
    """Makes the Observed of a key."""

    def __init__(
        self,
        cluster: Cluster,
        cache: ObjectCache,
        *,
        policy: Policy,
        fence: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._cluster, self._cache = cluster, cache
        self._policy, self._fence = policy, fence

    async def __call__(self, key: Key, *, absent: str = "") -> Observed | None:
        """Return what one decision may depend on; None if the object is not known.

        `absent` is the name of a Job that did not exist a moment ago, in the same turn: it still
        does not, since a key has one worker, and nobody else makes one that is ours.
        """
        text = self._cache.text(key)
        if text is None:
            return None
        found = parsed(key, text)
        children = GatheredChildren(key, found.metadata.uid, self._cache)
        foreign: frozenset[str] = frozenset()
        if not is_final(found.status):
            foreign = await self._next_job(key, found, children, absent)
            await self._unseen_pods(key, found, children)
            await self._reasons_of_no_headway(children)
        return Observed(
            key=key,
            object=found,
            now=self._cluster.now(),
            policy=self._policy,
            fence=self._fence(),
            jobs=children.jobs(),
            references=await self._references(key, found),
            unserved_kinds=await self._unserved_kinds(found),
            foreign_names=foreign,
            predecessor_pods=children.predecessor_pods(),
        )

    async def _next_job(
        self, key: Key, found: OurObject, children: GatheredChildren, absent: str
    ) -> frozenset[str]:
        """Read the Job that a step might create; return its name if it is somebody else's."""
        name = next_job_name(key, found)
        if name == absent or _is_new(found) or children.has_job(name):
            return frozenset()
        resource = _next_resource(found)
        live = await self._cluster.read(resource, key.namespace, name)
        if live is None:
            return frozenset()
        holder = controller(live)
        if holder.get("uid") == found.metadata.uid:
            children.add(project(_with_kind(live, resource.api_version, resource.kind)))
            return frozenset()
        predecessor = (holder.get("kind"), holder.get("name")) == (key.kind, key.name)
        return frozenset() if predecessor else frozenset({f"{resource.kind} {name}"})

    async def _unseen_pods(self, key: Key, found: OurObject, children: GatheredChildren) -> None:
        """List pods where one that the cache does not know yet would be judged not to exist."""
        name = next_job_name(key, found)
        judged = (job for job in children.jobs() if job.ref.name == name)
        if not (_is_between_attempts(found) or _lacks_last_word(judged)):
            return
        labels = f"{OWNER_LABELS[key.kind]}={key.name}"
        async for page in self._cluster.pages(PODS, labels=labels):
            for pod in page.items:
                if owner_key(pod) == key:
                    children.add(project(_with_kind(pod, PODS.api_version, PODS.kind)))

    async def _reasons_of_no_headway(self, children: GatheredChildren) -> None:
        """Ask events where a Job has no pod, or one without its volumes: only they say why."""
        for job in children.jobs():
            wait = headway_seconds(job, self._cluster.now())
            if wait is not None and wait <= 0:
                asked = self._cluster.queue_about if job.suspended else self._cluster.warning_about
                children.note(job.ref.uid, await asked(asked_about(job)))

    async def _unserved_kinds(self, found: OurObject) -> frozenset[str]:
        """Ask which kinds that the next attempt needs the API server does not know."""
        if not isinstance(found, FineTuneExperiment) or _is_under_way(found):
            return frozenset()
        wanted = set(found.spec.scheduling.kinds) & self._policy.optional_kinds
        return frozenset([k for k in wanted if not await self._cluster.served(OPTIONAL[k])])

    async def _references(self, key: Key, found: OurObject) -> Mapping[Key, OurObject | None]:
        wanted = references_of(key, found)
        known = {reference: await self._referenced(reference) for reference in wanted}
        for source in list(known.values()) if isinstance(found, ModelExport) else ():
            if isinstance(source, FineTuneExperiment):  # whose data has a license to carry on
                dataset = Key(DATASET, key.namespace, source.spec.dataset.name)
                known[dataset] = await self._referenced(dataset)
        return known

    async def _referenced(self, reference: Key) -> OurObject | None:
        text = self._cache.text(reference)
        if text is not None:
            return parsed(reference, text)
        resource = OURS[reference.kind]
        live = await self._cluster.read(resource, reference.namespace, reference.name)
        return None if live is None else parsed(reference, json.dumps(live).encode())


def absent_job(observed: Observed) -> str:
    """Return the name of the Job that comes next if nothing has it, or ''."""
    name = next_job_name(observed.key, observed.object)
    is_there = observed.foreign_names or any(job.ref.name == name for job in observed.jobs)
    return "" if is_there else name


@lru_cache(maxsize=128)  # what several experiments refer to
def parsed(key: Key, text: bytes) -> OurObject:
    """Return a stored object; raises MalformedError if it does not fit its own schema."""
    try:
        return _MODELS[key.kind].model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        message = f"{key.kind} {key.name}: {place}: {first['msg']}; apply it again"
        raise MalformedError(message) from error


def references_of(key: Key, found: OurObject) -> tuple[Key, ...]:
    """Return the objects a decision needs, as long as it needs them."""
    if is_final(found.status):
        return ()
    if isinstance(found, FineTuneExperiment) and not found.status.preparation.complete:
        return tuple(Key(kind, key.namespace, name) for kind, name in depends_on(found.spec))
    if isinstance(found, ModelExport):
        return (Key(EXPERIMENT, key.namespace, found.spec.source.experiment.name),)
    return ()


def depends_on(spec: ExperimentSpec) -> tuple[tuple[str, str], ...]:
    """Return kind and name of everything an experiment waits for before it is prepared."""
    data = (spec.dataset.name, spec.dataset.validation_name, spec.dataset.test_name)
    needed = dict.fromkeys((DATASET, name) for name in data if name)
    if spec.model.from_experiment:
        needed[EXPERIMENT, spec.model.from_experiment.name] = None
    return tuple(needed)


def next_job_name(key: Key, found: OurObject) -> str:
    """Return the name of the Job that is under way or comes next."""
    attempt = found.status.attempt
    number = attempt.number + (attempt.number == 0 or attempt.ended is not None)
    if not isinstance(found, FineTuneExperiment):
        return (dataset_job if key.kind == DATASET else export_job)(key.name, number)
    preparation = found.status.preparation
    if preparation.complete:
        return attempt_job(key.name, number)
    prepared = preparation.attempt + (preparation.attempt == 0 or preparation.ended is not None)
    return preparation_job(key.name, max(1, found.status.revision), prepared)


def _next_resource(found: OurObject) -> Resource:
    """Return the kind of child that is under way or comes next; preparations are Jobs."""
    if isinstance(found, FineTuneExperiment) and found.status.preparation.complete:
        return JOB_SETS if JOB_SET in found.spec.scheduling.kinds else JOBS
    return JOBS


def _is_new(found: OurObject) -> bool:
    """Tell whether no Job of an experiment was ever begun; whose its name is, a create will tell.

    Only where no clock runs from the number on: an attempt that is kept from its name is not late.
    """
    if not isinstance(found, FineTuneExperiment) or found.status.attempt.number:
        return False
    return found.status.preparation.attempt == 0


def _is_under_way(found: OurObject) -> bool:
    return found.status.attempt.number > 0 and found.status.attempt.ended is None


def _is_between_attempts(found: OurObject) -> bool:
    """Tell whether an attempt or a preparation has ended, and another one may follow."""
    if found.status.attempt.ended is not None:
        return True
    prepared = found.status.preparation if isinstance(found, FineTuneExperiment) else None
    return prepared is not None and prepared.ended is not None and not prepared.complete


def _lacks_last_word(jobs: Iterable[JobFacts]) -> bool:
    """Tell whether a Job has ended and its first pod, as far as known, has not."""
    return any(
        (job.complete or job.failed)
        and not job.gone
        and not any(pod.index == 0 and not pod.may_run for pod in job.pods)
        for job in jobs
    )


def _with_kind(item: Manifest, api_version: str, kind: str) -> Manifest:
    """Items of a list carry no kind of their own."""
    return {"apiVersion": api_version, "kind": kind} | item
