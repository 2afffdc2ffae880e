"""What every child has: name, labels, annotations and the reference to its owner."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_api.finetune_experiment import FineTuneExperiment
from finetune_api.names import (
    API_VERSION,
    ATTEMPT_LABEL,
    COMPONENT_LABEL,
    DATASET,
    EXPERIMENT,
    EXPORT,
    FENCE_ANNOTATION,
    FIELD_MANAGER,
    MANAGED_BY_LABEL,
    OWNER_LABELS,
    PLAN_DIGEST_ANNOTATION,
    REVISION_LABEL,
)
from finetune_operator.observed import Manifest, Observed, OurObject

_APPLICATIONS = {
    DATASET: "finetune-dataset",
    EXPERIMENT: "finetune-trainer",
    EXPORT: "finetune-export",
}


@dataclass(frozen=True)
class Owner:
    """Whose child it is and which run of the owner it belongs to."""

    kind: str
    object: OurObject
    revision: int
    attempt: int
    component: str = "attempt"
    fence: int | None = None
    spec_digest: str = ""

    @property
    def name(self) -> str:
        """Return the owner's name."""
        return self.object.metadata.name

    def labels(self) -> dict[str, str]:
        """Return the labels of a child of one attempt and of its pods."""
        return self.lasting_labels() | {
            REVISION_LABEL: str(self.revision),
            ATTEMPT_LABEL: str(self.attempt),
        }

    def lasting_labels(self) -> dict[str, str]:
        """Return the labels of a child that outlives attempts."""
        labels = {
            "app.kubernetes.io/name": _APPLICATIONS[self.kind],
            "app.kubernetes.io/instance": self.name,
            "app.kubernetes.io/part-of": FIELD_MANAGER,
            MANAGED_BY_LABEL: FIELD_MANAGER,
            COMPONENT_LABEL: self.component,
            OWNER_LABELS[self.kind]: self.name,
        }
        if isinstance(self.object, FineTuneExperiment):
            labels[OWNER_LABELS[DATASET]] = self.object.spec.dataset.name
        return labels

    def selector(self) -> dict[str, str]:
        """Return the labels that find the rank pods of all attempts."""
        return {OWNER_LABELS[self.kind]: self.name, COMPONENT_LABEL: self.component}


def owner(
    observed: Observed, *, attempt: int, component: str = "attempt", spec_digest: str = ""
) -> Owner:
    """Return the owner of a child of `attempt`."""
    return Owner(
        kind=observed.key.kind,
        object=observed.object,
        revision=max(1, observed.object.status.revision),
        attempt=attempt,
        component=component,
        fence=observed.fence,
        spec_digest=spec_digest,
    )


def owned(of: Owner, *, api_version: str, kind: str, name: str, lasting: bool = False) -> Manifest:
    """Return a child without its content; garbage collection removes it with its owner."""
    metadata = of.object.metadata
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": metadata.namespace,
            "labels": of.lasting_labels() if lasting else of.labels(),
            "annotations": _annotations(of),
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": of.kind,
                    "name": metadata.name,
                    "uid": metadata.uid,
                    "controller": True,
                    "blockOwnerDeletion": False,
                }
            ],
        },
    }


def _annotations(of: Owner) -> dict[str, str]:
    fence = {} if of.fence is None else {FENCE_ANNOTATION: str(of.fence)}
    return fence | ({PLAN_DIGEST_ANNOTATION: of.spec_digest} if of.spec_digest else {})
