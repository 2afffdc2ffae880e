"""The NetworkPolicy of an attempt: its own pods, the operator and monitoring may come in."""

from __future__ import annotations

from finetune_api.names import OWNER_LABELS
from finetune_api.network_policy import NetworkMode, NetworkPolicy
from finetune_operator.manifests.owned import Owner, owned
from finetune_operator.observed import Manifest, Policy

_NAMESPACE_NAME = "kubernetes.io/metadata.name"
_DNS = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]


def attempt_network(
    of: Owner, name: str, wanted: NetworkPolicy, policy: Policy
) -> tuple[Manifest, ...]:
    """Return the NetworkPolicy of an attempt's pods, or nothing where none is wanted.

    Each attempt has its own: a change acts from the next one on, and nothing is taken away from
    pods that run.
    """
    if wanted.mode is NetworkMode.NONE:
        return ()
    own = {"podSelector": {"matchLabels": {OWNER_LABELS[of.kind]: of.name}}}
    spec: Manifest = {
        "podSelector": {"matchLabels": of.labels()},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [own, *_namespaces(policy.visitor_namespaces)]}],
    }
    if wanted.mode is NetworkMode.RESTRICTED:
        ranges = [{"ipBlock": {"cidr": cidr}} for cidr in wanted.egress_cidrs or ()]
        reached = [own, *_namespaces(tuple(wanted.egress_namespaces or ())), *ranges]
        spec["policyTypes"].append("Egress")
        spec["egress"] = [{"ports": _DNS}, {"to": reached}]
    manifest = owned(of, api_version="networking.k8s.io/v1", kind="NetworkPolicy", name=name)
    return (manifest | {"spec": spec},)


def _namespaces(names: tuple[str, ...]) -> list[Manifest]:
    if not names:
        return []
    chosen = {"key": _NAMESPACE_NAME, "operator": "In", "values": sorted(set(names))}
    return [{"namespaceSelector": {"matchExpressions": [chosen]}}]
