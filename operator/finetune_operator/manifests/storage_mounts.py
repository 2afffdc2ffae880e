"""Claims and Secrets that a job reads or writes, as volumes and mounts of its pod.

Secrets are mounted as files and never become environment variables.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from finetune_api.dataset import DatasetSpec
from finetune_api.experiment_start import Start
from finetune_api.finetune_experiment import ExperimentSpec
from finetune_api.meta import SecretRef
from finetune_api.model_export import ExportSpec
from finetune_api.names import CLAIMS_DIR, SECRETS_DIR
from finetune_api.storage import S3, Hub, Location, VolumeClaim
from finetune_operator.observed import Manifest

_OWNER_AND_GROUP_MAY_READ = 0o440


@dataclass(frozen=True)
class Mounts:
    """Claims by name, with whether they are only read, and names of Secrets."""

    claims: tuple[tuple[str, bool], ...] = ()
    secrets: tuple[str, ...] = ()

    def __or__(self, other: Mounts) -> Mounts:
        """Return both; a claim that either one writes is writable."""
        only_read = dict(self.claims)
        for name, read_only in other.claims:
            only_read[name] = read_only and only_read.get(name, True)
        secrets = {*self.secrets, *other.secrets}
        return Mounts(tuple(sorted(only_read.items())), tuple(sorted(secrets)))

    def volumes(self) -> list[Manifest]:
        """Return the pod's volumes."""
        claims = [
            {"name": f"claim-{index}", "persistentVolumeClaim": {"claimName": name}}
            for index, (name, _) in enumerate(self.claims)
        ]
        secrets = [
            {
                "name": f"secret-{index}",
                "secret": {"secretName": name, "defaultMode": _OWNER_AND_GROUP_MAY_READ},
            }
            for index, name in enumerate(self.secrets)
        ]
        return [*claims, *secrets]

    def volume_mounts(self) -> list[Manifest]:
        """Return the container's mounts: claims and Secrets by name below one folder each."""
        claims = [
            {"name": f"claim-{index}", "mountPath": f"{CLAIMS_DIR}/{name}"}
            | ({"readOnly": True} if read_only else {})
            for index, (name, read_only) in enumerate(self.claims)
        ]
        secrets = [
            {"name": f"secret-{index}", "mountPath": f"{SECRETS_DIR}/{name}", "readOnly": True}
            for index, name in enumerate(self.secrets)
        ]
        return [*claims, *secrets]


def written(location: Location) -> Mounts:
    """Return what writing results to `location` needs."""
    return _claim(location.volume_claim, read_only=False) | _bucket(location.s3)


def read(location: Location) -> Mounts:
    """Return what reading from `location` needs."""
    return _claim(location.volume_claim) | _bucket(location.s3)


def dataset_mounts(spec: DatasetSpec, location: Location) -> Mounts:
    """Return what a Dataset's Job needs: its sources, and where the snapshot goes."""
    sources = (
        _claim(source.volume_claim)
        | _bucket(source.s3)
        | _secret(source.http.secret_ref if source.http else None)
        for source in spec.sources
    )
    return _all((*sources, _hub(spec.hub), written(location)))


def model_mounts(spec: ExperimentSpec, start: Start | None) -> Mounts:
    """Return what loading the starting weights needs."""
    base = start.base if start else spec.model
    ancestors = (read(ancestor.location) for ancestor in (start.ancestors if start else ()))
    return _all((_claim(base.volume_claim), _bucket(base.s3), _hub(spec.hub), *ancestors))


def export_mounts(spec: ExportSpec, location: Location) -> Mounts:
    """Return what an export writes to: its storage and its targets."""
    targets = (
        _claim(target.volume_claim, read_only=False) | _bucket(target.s3)
        for target in spec.targets or ()
    )
    return _all((*targets, _hub(spec.hub), written(location)))


def _claim(claim: VolumeClaim | None, *, read_only: bool = True) -> Mounts:
    return Mounts(claims=((claim.claim_name, read_only),)) if claim else Mounts()


def _bucket(bucket: S3 | None) -> Mounts:
    return _secret(bucket.secret_ref if bucket else None)


def _hub(hub: Hub) -> Mounts:
    return _secret(hub.secret_ref)


def _secret(reference: SecretRef | None) -> Mounts:
    return Mounts(secrets=(reference.name,)) if reference else Mounts()


def _all(parts: Iterable[Mounts]) -> Mounts:
    together = Mounts()
    for part in parts:
        together |= part
    return together
