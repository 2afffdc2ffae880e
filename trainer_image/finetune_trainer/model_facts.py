"""What a model folder says about itself without loading it: architecture, context, sizes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from finetune_api.model_settings import Adapter, AdapterType
from finetune_api.model_shape import ModelShape, model_shape
from finetune_trainer.errors import ConfigurationError

CAUSAL = ("ForCausalLM", "LMHeadModel")
CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len")
MAX_HEADER_BYTES = 100 << 20
_IN_A_BLOCK = re.compile(r"\.\d+\.(.+)\.weight$")


@dataclass(frozen=True)
class ModelFacts:
    """The base model as its files describe it."""

    architecture: str
    context: int | None
    vocabulary: int | None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """shapes of the tensors by name; empty where the weights do not lie here."""
    shape: ModelShape | None = None
    """shape as the configuration tells it."""

    @property
    def parameters(self) -> int | None:
        """Return the number of parameters, or None where the weights do not lie here."""
        return sum(map(prod, self.shapes.values())) or None

    def trainable(self, adapter: Adapter, rank: int | None) -> int | None:
        """Return the number of trained parameters: rank x (in + out) of every adapted matrix."""
        if adapter.type == AdapterType.NONE or rank is None:
            return self.parameters
        suffixes = tuple(adapter.target_modules or ())
        sizes = [
            rank * sum(shape)
            for name, shape in self.shapes.items()
            if len(shape) == 2 and _adapted(name, suffixes)
        ]
        return sum(sizes) or None


def model_facts(folder: Path) -> ModelFacts:
    """Return the facts of a model folder; raise ConfigurationError (UnsupportedModel)."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
        names = config.get("architectures") or [""]
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigurationError(
            "spec.model: its config.json cannot be read; download the model again",
            reason="UnsupportedModel",
        ) from error
    architecture = str(names[0])
    if not architecture.endswith(CAUSAL):
        raise ConfigurationError(
            f"spec.model: architecture {architecture or 'unknown'} is not a causal language model; "
            "use a model whose architecture ends in ForCausalLM",
            reason="UnsupportedModel",
        )
    shapes = _shapes(folder)
    return ModelFacts(
        architecture=architecture,
        context=next((n for name in CONTEXT_NAMES if isinstance(n := config.get(name), int)), None),
        vocabulary=config.get("vocab_size"),
        shapes=shapes,
        shape=model_shape(config, sum(map(prod, shapes.values())) or None),
    )


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        shapes |= {
            name: tuple(entry["shape"])
            for name, entry in _header(path).items()
            if name != "__metadata__"
        }
    return shapes


def _header(path: Path) -> dict[str, Any]:
    """Return the JSON header of a safetensors file: eight bytes of length, then the text."""
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        try:
            if size > MAX_HEADER_BYTES:
                raise ValueError(size)
            header: dict[str, Any] = json.loads(stream.read(size))
        except ValueError as error:
            raise ConfigurationError(
                f"spec.model: {path.name} is not a safetensors file; download the model again",
                reason="UnsafeModelFormat",
            ) from error
    return header


def _adapted(name: str, suffixes: tuple[str, ...]) -> bool:
    inside = _IN_A_BLOCK.search(name)
    if inside is None or "norm" in name:
        return False
    return not suffixes or inside[1].endswith(suffixes)
