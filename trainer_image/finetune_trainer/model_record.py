"""What every checkpoint records of the model below it: its origin, how it was held, its rows.

A checkpoint fits only the base it was trained on, held as it was: another one is refused, and a
merge adds an update to the weights that the adapter saw.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_api.model_settings import Dtype
from finetune_trainer.errors import ConfigurationError

if TYPE_CHECKING:
    from finetune_api.run_config import TrainingConfig

MODEL = "model.json"
SAMPLE_BYTES = 4096


@dataclass(frozen=True)
class ModelRecord:
    """The model below a checkpoint."""

    base: str = ""
    """base is the place and commit of the model."""
    digest: str = ""
    """digest of a sample of its weights."""
    quantization: str = "None"
    double: bool = True
    threshold: float | None = None
    held: str = ""
    """held is the type that frozen weights had, before quantisation."""
    vocabulary: int = 0
    """vocabulary is the number of rows of the embeddings."""
    whole: tuple[str, ...] = ()
    """whole are modules that were trained in full beside an adapter, and so never quantised."""

    def as_file(self) -> bytes:
        """Return the content of model.json."""
        return json.dumps(asdict(self), indent=1).encode()

    def refuse_another(self, saved: bytes | None) -> None:
        """Raise ConfigurationError where a checkpoint's model.json names another base than this."""
        if saved is None:
            return
        own, other = json.loads(self.as_file()), json.loads(saved)
        differing = [
            f"{name} was {other.get(name)}" for name in own if own[name] != other.get(name)
        ]
        if differing:
            raise ConfigurationError(
                f"spec.model: the checkpoint belongs to another base: {'; '.join(differing)}; "
                "restore the model, or run the experiment anew",
                reason="WeightsMismatch",
            )


def model_record(config: TrainingConfig, folder: Path, vocabulary: int) -> ModelRecord:
    """Return the record of a run on the model of a folder that has so many rows in training."""
    spec, plan = config.spec, config.plan
    held = plan.compute_dtype if spec.model.dtype is Dtype.AUTO else spec.model.dtype.value
    return ModelRecord(
        base=f"{config.model.name}@{config.model.commit or ''}",
        digest=weights_digest(folder),
        quantization=plan.quantization,
        double=spec.model.double_quantization,
        threshold=spec.model.int8_threshold,
        held=held,
        vocabulary=vocabulary,
        whole=tuple(spec.adapter.modules_to_save or ()),
    )


def recorded_model(checkpoint: Path) -> ModelRecord:
    """Return the record of a checkpoint's folder; an empty one for a checkpoint without."""
    path = checkpoint / MODEL
    found = json.loads(path.read_bytes()) if path.exists() else {}
    return ModelRecord(**found | {"whole": tuple(found.get("whole", ()))})


def weights_digest(folder: Path) -> str:
    """Return a digest of names, types, shapes and a sample of every tensor of a model folder.

    Reading all of a large model would take minutes; no two trainings leave the same samples.
    """
    hashed = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            header = stream.read(size)
            hashed.update(header)
            tensors = json.loads(header)
            tensors.pop("__metadata__", None)
            for start, end in sorted(one["data_offsets"] for one in tensors.values()):
                stream.seek(8 + size + (start + end) // 2 // 8 * 8)
                hashed.update(stream.read(min(SAMPLE_BYTES, end - start)))
    return f"sha256:{hashed.hexdigest()}"
