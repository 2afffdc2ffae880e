"""What one reconcile step sees and answers: values, made by `gather`, judged by `planners`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from finetune_api.dataset import Dataset
from finetune_api.finetune_experiment import FineTuneExperiment
from finetune_api.model_export import ModelExport
from finetune_api.network_profile import NetworkProfile
from finetune_api.run_outcome import Outcome
from finetune_api.run_progress import Progress
from finetune_api.storage import Location

Manifest = dict[str, Any]
OurObject = Dataset | FineTuneExperiment | ModelExport


@dataclass(frozen=True, order=True)
class Key:
    """One object of our kinds."""

    kind: str
    namespace: str
    name: str


@dataclass(frozen=True)
class ChildRef:
    """A child as it was observed; a delete holds only for this UID and version.

    A child that nobody observes has neither: the one of this name is meant, if it is ours.
    """

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str
    resource_version: str


@dataclass(frozen=True)
class PodFacts:
    """About 1 KB of what a pod says of itself, kept after the pod is gone.

    `waiting` is the reason and message of a container or scheduling condition that stops it.
    """

    name: str
    uid: str
    phase: Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"]
    index: int = 0
    bound: bool = False
    ready: bool = False
    deleting: bool = False
    deleting_since: datetime | None = None
    """deleting_since is when its time to stop ends or ended."""
    deletion_asked: datetime | None = None
    gone: bool = False
    disrupted: bool = False
    out_of_memory: bool = False
    memory_limit: str = ""
    exit_code: int | None = None
    outcome: Outcome | None = None
    reason: str = ""
    waiting: tuple[str, str] | None = None
    ip: str = ""

    @property
    def may_run(self) -> bool:
        """Tell whether a process of this pod may still be alive."""
        return not self.gone and self.phase not in ("Succeeded", "Failed")


@dataclass(frozen=True)
class JobFacts:
    """One child Job of ours and its pods, found by the owner's UID and the attempt label."""

    ref: ChildRef
    attempt: int
    component: Literal["attempt", "prepare"]
    revision: int = 1
    spec_digest: str = ""
    created: datetime | None = None
    complete: bool = False
    failed: bool = False
    failure_message: str = ""
    failed_since: datetime | None = None
    suspended: bool = False
    """suspended by its queue: it has no quota yet, or no longer."""
    deleting: bool = False
    gone: bool = False
    inner: ChildRef | None = None
    """inner is the Job in a JobSet, which makes the pods."""
    pods: tuple[PodFacts, ...] = ()
    progress: Progress | None = None
    """progress as last pulled from rank 0, or None."""
    message: str = ""
    """message from events when the Job makes no headway: why pods are not created or placed."""

    @property
    def may_run(self) -> bool:
        """Tell whether any process of this Job may still be alive."""
        return any(pod.may_run for pod in self.pods)

    @property
    def bound(self) -> bool:
        """Tell whether a pod is on a node; those of a run that its queue stopped do not count."""
        return any(pod.bound and not (pod.gone or pod.deleting) for pod in self.pods)


@dataclass(frozen=True)
class Policy:
    """What the administrator settled, as far as decisions need it."""

    image: str
    default_location: Location | None = None
    image_pull_policy: str = "IfNotPresent"
    models_allowed: tuple[str, ...] = ()
    addresses_allowed: tuple[str, ...] = ()
    hub_endpoint: str | None = None
    node_lost_seconds: int = 300
    gpu_hour_prices: Mapping[str, float] = field(default_factory=dict)
    """gpu_hour_prices by GPU product or resource name; `*` = any other."""
    currency: str = ""
    """currency of these prices."""
    visitor_namespaces: tuple[str, ...] = ()
    """visitor_namespaces hold the operator and what scrapes metrics."""
    optional_kinds: frozenset[str] = frozenset()
    """optional_kinds of children may be made where the cluster serves them."""
    network_profiles: Mapping[str, NetworkProfile] = field(default_factory=dict)


@dataclass(frozen=True)
class Observed:
    """Everything one decision may depend on."""

    key: Key
    object: OurObject
    now: datetime
    policy: Policy
    fence: int | None = None
    jobs: tuple[JobFacts, ...] = ()
    """jobs of this object (by owner UID), ended and vanished ones included while known."""
    references: Mapping[Key, OurObject | None] = field(default_factory=dict)
    """references after a live read where the cache had none; None = it does not exist."""
    unserved_kinds: frozenset[str] = frozenset()
    """unserved_kinds are kinds that the next attempt needs and the API server does not know."""
    foreign_names: frozenset[str] = frozenset()
    """foreign_names are child names held by objects that are not ours."""
    predecessor_pods: int = 0
    """predecessor_pods of a deleted object of the same name that may still run."""


@dataclass(frozen=True)
class Event:
    """A Kubernetes Event to post once the status write has succeeded."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True)
class Plan:
    """The answer of the planner: carried out in this order.

    `status` is the complete new status as JSON; `apply` children are created if absent (`once`)
    or applied with force (`mutable`); a fact that later decisions need is recorded in a step
    that touches no child.
    """

    status: Manifest
    apply: tuple[Manifest, ...] = ()
    delete: tuple[ChildRef, ...] = ()
    events: tuple[Event, ...] = ()
    requeue_seconds: float | None = None
    """requeue_seconds until something is due by the clock alone."""
    pull_progress: bool = False
    """pull_progress: a job of this object runs and answers on its port."""
    waits_for: tuple[Key, ...] = ()
    """waits_for are the references whose change wakes this object."""
