"""The default engine: an Indexed Job, one pod per node, and a headless Service."""

from __future__ import annotations

from finetune_api.names import master_address
from finetune_operator.engines.attempt_engine import Attempt
from finetune_operator.engines.gang import gang_children, rank_template
from finetune_operator.manifests.attempt_network import attempt_network
from finetune_operator.manifests.child_job import child_job
from finetune_operator.manifests.rank_pod import Rendezvous
from finetune_operator.manifests.rendezvous_service import rendezvous_service
from finetune_operator.manifests.run_config_map import run_config_map
from finetune_operator.observed import Manifest


class IndexedJobEngine:
    """Runs an attempt as one Job of the batch API."""

    def render(self, attempt: Attempt) -> tuple[Manifest, ...]:
        """Return the Job and what its pods need; it comes last."""
        of, spec = attempt.owner, attempt.experiment.spec
        meet = Rendezvous(master_address(of.name, of.attempt), subdomain=of.name)
        template = rank_template(attempt, meet)
        return (
            rendezvous_service(of),
            *attempt_network(of, attempt.name, spec.network_policy, attempt.policy),
            run_config_map(of, attempt.name, attempt.config),
            *gang_children(attempt),
            child_job(of, attempt.name, template, pods=spec.compute.nodes, queue=spec.scheduling),
        )

    def service(self, name: str, _attempt: int) -> str:
        """Return the Service of all attempts."""
        return name
