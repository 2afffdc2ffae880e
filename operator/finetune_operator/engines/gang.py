"""Keeps the pods of an attempt together: the template they share, and a gang's own object."""

from __future__ import annotations

from finetune_api.compute_settings import Gang
from finetune_operator.engines.attempt_engine import Attempt
from finetune_operator.manifests.pod_group import GROUP_ANNOTATION, VOLCANO, pod_group
from finetune_operator.manifests.pod_template import pod_template
from finetune_operator.manifests.rank_affinity import rank_affinity, topology_annotations
from finetune_operator.manifests.rank_pod import Rendezvous, network_profile, rank_pod
from finetune_operator.observed import Manifest


def rank_template(attempt: Attempt, meet: Rendezvous) -> Manifest:
    """Return the template of the attempt's pods, placed as their gang and topology want it."""
    of, spec, policy = attempt.owner, attempt.experiment.spec, attempt.policy
    pod = rank_pod(of, attempt.pod(), spec.compute, policy, meet)
    if affinity := rank_affinity(of, spec.compute, spec.scheduling):
        pod["affinity"] = affinity
    annotations = dict(network_profile(spec.compute, policy).annotations)
    annotations |= topology_annotations(spec.scheduling)
    if spec.scheduling.gang is Gang.VOLCANO:
        pod["schedulerName"] = VOLCANO
        annotations[GROUP_ANNOTATION] = attempt.name
    return pod_template(of, pod, spec.pod_overrides, annotations)


def gang_children(attempt: Attempt) -> tuple[Manifest, ...]:
    """Return what must exist before the pods, so that none of them starts alone."""
    spec = attempt.experiment.spec
    if spec.scheduling.gang is not Gang.VOLCANO:
        return ()
    return (pod_group(attempt.owner, attempt.name, spec.compute.nodes, spec.scheduling),)
