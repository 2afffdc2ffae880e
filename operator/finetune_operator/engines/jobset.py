"""The engine for the JobSet controller: one replicated Job, and the Service a JobSet makes.

https://jobset.sigs.k8s.io; the fields are those of v1alpha2, defaults of its webhook included.
"""

from __future__ import annotations

from finetune_api.names import JOB_SET, RANKS, attempt_job, job_set_master_address
from finetune_operator.engines.attempt_engine import Attempt
from finetune_operator.engines.gang import gang_children, rank_template
from finetune_operator.manifests.attempt_network import attempt_network
from finetune_operator.manifests.child_job import job_spec, queued
from finetune_operator.manifests.owned import owned
from finetune_operator.manifests.rank_pod import Rendezvous
from finetune_operator.manifests.run_config_map import run_config_map
from finetune_operator.observed import Manifest


class JobSetEngine:
    """Runs an attempt as one JobSet that is never restarted: the next try is another one."""

    def render(self, attempt: Attempt) -> tuple[Manifest, ...]:
        """Return the JobSet and what its pods need; it comes last."""
        of, spec = attempt.owner, attempt.experiment.spec
        return (
            *attempt_network(of, attempt.name, spec.network_policy, attempt.policy),
            run_config_map(of, attempt.name, attempt.config),
            *gang_children(attempt),
            queued(_job_set(attempt), spec.scheduling),
        )

    def service(self, name: str, attempt: int) -> str:
        """Return the Service that the JobSet makes under its own name."""
        return attempt_job(name, attempt)


def _job_set(attempt: Attempt) -> Manifest:
    of = attempt.owner
    template = rank_template(attempt, Rendezvous(job_set_master_address(of.name, of.attempt)))
    ranks = {
        "name": RANKS,
        "replicas": 1,
        "template": {
            "metadata": {"labels": of.labels()},
            "spec": job_spec(template, attempt.experiment.spec.compute.nodes),
        },
    }
    manifest = owned(of, api_version="jobset.x-k8s.io/v1alpha2", kind=JOB_SET, name=attempt.name)
    return manifest | {
        "spec": {
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "successPolicy": {"operator": "All"},
            "failurePolicy": {"maxRestarts": 0},
            "startupPolicy": {"startupPolicyOrder": "AnyOrder"},
            "replicatedJobs": [ranks],
        }
    }
