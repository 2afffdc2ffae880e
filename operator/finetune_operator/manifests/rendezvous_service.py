"""The headless Service that gives every rank pod of an experiment a host name."""

from __future__ import annotations

from finetune_api.names import MASTER_PORT, METRICS_PORT, METRICS_PORT_NAME
from finetune_operator.manifests.owned import Owner, owned
from finetune_operator.observed import Manifest


def rendezvous_service(of: Owner) -> Manifest:
    """Return the Service; it selects all attempts, as each has host names of its own."""
    spec = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": of.selector(),
        "ports": [
            {"name": "rendezvous", "port": MASTER_PORT, "targetPort": MASTER_PORT},
            {"name": METRICS_PORT_NAME, "port": METRICS_PORT, "targetPort": METRICS_PORT_NAME},
        ],
    }
    return owned(of, api_version="v1", kind="Service", name=of.name, lasting=True) | {"spec": spec}
