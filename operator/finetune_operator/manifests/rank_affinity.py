"""Where rank pods go: on nodes with the accepted GPUs, and near each other."""

from __future__ import annotations

from finetune_api.compute_settings import TopologyMode, TrainingCompute, TrainingScheduling
from finetune_operator.manifests.owned import Owner
from finetune_operator.observed import Manifest

PRODUCT_LABEL = "nvidia.com/gpu.product"
"""Set on nodes by NVIDIA's GPU feature discovery."""
_KUEUE_TOPOLOGY = {
    TopologyMode.REQUIRED: "kueue.x-k8s.io/podset-required-topology",
    TopologyMode.PREFERRED: "kueue.x-k8s.io/podset-preferred-topology",
}


def rank_affinity(of: Owner, compute: TrainingCompute, scheduling: TrainingScheduling) -> Manifest:
    """Return the affinity of a rank pod; {} where nothing is asked for."""
    affinity: Manifest = {}
    if compute.gpu_products:
        accepted = {"key": PRODUCT_LABEL, "operator": "In", "values": compute.gpu_products}
        affinity["nodeAffinity"] = {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [accepted]}]
            }
        }
    if scheduling.topology_key and not scheduling.local_queue:
        affinity["podAffinity"] = _near_its_peers(of, scheduling)
    return affinity


def topology_annotations(scheduling: TrainingScheduling) -> dict[str, str]:
    """Return what tells Kueue where the pods belong: it places them where it has quota."""
    if not (scheduling.topology_key and scheduling.local_queue):
        return {}
    mode = scheduling.topology_mode or TopologyMode.PREFERRED
    return {_KUEUE_TOPOLOGY[mode]: scheduling.topology_key}


def _near_its_peers(of: Owner, scheduling: TrainingScheduling) -> Manifest:
    term = {
        "labelSelector": {"matchLabels": of.labels()},
        "topologyKey": scheduling.topology_key,
    }
    if scheduling.topology_mode is TopologyMode.REQUIRED:
        return {"requiredDuringSchedulingIgnoredDuringExecution": [term]}
    weighted = {"weight": 100, "podAffinityTerm": term}
    return {"preferredDuringSchedulingIgnoredDuringExecution": [weighted]}
