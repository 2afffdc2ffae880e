"""Facts of an object that several children are built from: identity, location, ranks, seed."""

from __future__ import annotations

import hashlib
import json

from finetune_api.compute_settings import TrainingCompute
from finetune_api.meta import ApiModel
from finetune_api.run_config import Identity
from finetune_api.storage import Location, Storage
from finetune_operator.manifests.owned import Owner

_LARGEST_SEED = 2**31 - 1


def identity(of: Owner) -> Identity:
    """Return whose job it is."""
    metadata = of.object.metadata
    return Identity(
        kind=of.kind,
        namespace=metadata.namespace,
        name=metadata.name,
        uid=metadata.uid,
        revision=of.revision,
        attempt=of.attempt,
    )


def location(storage: Storage, default: Location | None) -> Location | None:
    """Return where results are written: as the spec says, else the operator's default."""
    if storage.volume_claim or storage.s3:
        return Location(volume_claim=storage.volume_claim, s3=storage.s3)
    return default


def processes_per_node(compute: TrainingCompute) -> int:
    """Return the number of ranks in a pod: one per GPU, or as given for runs on CPU."""
    return compute.gpus_per_node or compute.processes_per_node or 1


def world_size(compute: TrainingCompute) -> int:
    """Return the number of ranks of an attempt."""
    return compute.nodes * processes_per_node(compute)


def drawn_seed(uid: str, revision: int) -> int:
    """Return the seed of a run that names none: always the same for the same run."""
    digest = hashlib.sha256(f"{uid}/{revision}".encode()).digest()
    return int.from_bytes(digest[:8]) % _LARGEST_SEED


def spec_digest(spec: ApiModel) -> str:
    """Return the digest of everything in a spec but its run policy."""
    content = spec.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"run_policy"})
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
