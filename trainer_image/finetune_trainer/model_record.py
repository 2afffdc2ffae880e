"""What every checkpoint records of the model below it: its origin, how it was held, its rows.

A checkpoint fits only the base it was trained on, held as it was: another one is refused, and a
merge adds an update to the weights that the adapter saw.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.training_settings import Dtype
from finetune_trainer.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from finetune_api.run_config import TrainingConfig


@dataclass(frozen=True)
class ModelRecord:
    """The model below a checkpoint."""

    base: str = ""
    """base is the place and commit of the model, then the digests of what was put onto it."""
    quantization: str = "None"
    double: bool = True
    threshold: float | None = None
    held: str = ""
    """held is the type that frozen weights had, before quantisation."""
    vocabulary: int = 0
    """vocabulary is the number of rows of the embeddings."""
    whole: tuple[str, ...] = ()
    """whole are modules that were trained in full beside an adapter, and so never quantised."""

    def as_json(self) -> dict[str, Any]:
        """Return what state.json holds under `model`."""
        return asdict(self)

    def refuse_another(self, saved: Mapping[str, Any] | None) -> None:
        """Raise ConfigurationError where a checkpoint was trained on another base than this."""
        if saved is None:
            return
        differing = [
            f"{name} was {saved.get(name)}, is {value}"
            for name, value in json.loads(json.dumps(self.as_json())).items()
            if saved.get(name) != value
        ]
        if differing:
            raise ConfigurationError(
                f"spec.model: the checkpoint belongs to another base: {'; '.join(differing)}; "
                "restore the settings, or run the experiment anew",
                reason="WeightsMismatch",
            )


def model_record(config: TrainingConfig, vocabulary: int) -> ModelRecord:
    """Return the record of a run whose model has so many rows."""
    spec, plan = config.spec, config.plan
    parts = [f"{config.model.name}@{config.model.commit or ''}"]
    if config.start is not None:
        parts += [f"{one.digest}/{one.handover.value}" for one in config.start.ancestors]
    held = plan.compute_dtype if spec.model.dtype is Dtype.AUTO else spec.model.dtype.value
    return ModelRecord(
        base=" ".join(parts),
        quantization=plan.quantization,
        double=spec.model.double_quantization,
        threshold=spec.model.int8_threshold,
        held=held,
        vocabulary=vocabulary,
        whole=tuple(spec.adapter.modules_to_save or ()),
    )


def recorded_model(checkpoint: Path) -> ModelRecord:
    """Return the record of a checkpoint's folder; an empty one for a checkpoint without."""
    path = checkpoint / "state.json"
    state = json.loads(path.read_bytes()) if path.exists() else {}
    found = state.get("model") or {}
    return ModelRecord(**found | {"whole": tuple(found.get("whole", ()))})
