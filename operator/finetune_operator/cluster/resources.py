"""Every kind the operator touches, as the API server serves it."""

from __future__ import annotations

from finetune_api.names import (
    DATASET,
    EXPERIMENT,
    EXPORT,
    GROUP,
    JOB_SET,
    PLURALS,
    POD_GROUP,
    VERSION,
)
from finetune_operator.cluster.cluster_protocol import Resource
from finetune_operator.observed import Manifest

DATASETS = Resource(GROUP, VERSION, PLURALS[DATASET], DATASET)
EXPERIMENTS = Resource(GROUP, VERSION, PLURALS[EXPERIMENT], EXPERIMENT)
EXPORTS = Resource(GROUP, VERSION, PLURALS[EXPORT], EXPORT)
OURS = {resource.kind: resource for resource in (DATASETS, EXPERIMENTS, EXPORTS)}

JOBS = Resource("batch", "v1", "jobs", "Job")
PODS = Resource("", "v1", "pods", "Pod")
SERVICES = Resource("", "v1", "services", "Service")
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
NETWORK_POLICIES = Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
EVENTS = Resource("", "v1", "events", "Event")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")

JOB_SETS = Resource("jobset.x-k8s.io", "v1alpha2", "jobsets", JOB_SET)
POD_GROUPS = Resource("scheduling.volcano.sh", "v1beta1", "podgroups", POD_GROUP)
OPTIONAL = {resource.kind: resource for resource in (JOB_SETS, POD_GROUPS)}
"""Children that an administrator switches on, and that not every cluster serves."""
WORKLOADS = tuple(
    Resource("kueue.x-k8s.io", version, "workloads", "Workload")
    for version in ("v1beta2", "v1beta1")
)
"""The newer version first: Kueue before 0.15 serves the older one alone."""

MUTABLE_KINDS = frozenset({SERVICES.kind})
"""Children that are applied again and again; all others are applied once and then left alone."""

_BY_KIND = {
    (resource.api_version, resource.kind): resource
    for resource in (
        *OURS.values(), JOBS, PODS, SERVICES, CONFIG_MAPS, NETWORK_POLICIES, EVENTS, LEASES,
        *WORKLOADS, *OPTIONAL.values(),
    )
}  # fmt: skip


def resource_of(manifest: Manifest) -> Resource:
    """Return the resource that serves `manifest`; KeyError for a kind nobody declared here."""
    return _BY_KIND[manifest["apiVersion"], manifest["kind"]]


def resource_named(api_version: str, kind: str) -> Resource:
    """Return the resource of an API version and kind; KeyError as for `resource_of`."""
    return _BY_KIND[api_version, kind]
