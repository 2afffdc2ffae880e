"""Weights of an export, made tensor by tensor: base plus adapter, or the trained tensors.

Sums are taken in 32 bit whatever the types of base and result, and no more than one tensor of the
result exists at a time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from finetune_trainer.errors import ConfigurationError
from finetune_trainer.weight_shards import DTYPES, TensorPlan

PEFT_PREFIX = "base_model.model."
LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"
INDEX = "model.safetensors.index.json"


class MergeFailedError(ConfigurationError):
    """Trained tensors do not fit the base model."""

    reason = "MergeFailed"


@dataclass(frozen=True)
class Update:
    """A low-rank update of one weight: scale x B @ A."""

    down: torch.Tensor
    up: torch.Tensor
    scale: float
    transposed: bool

    def of(self, weight: torch.Tensor) -> torch.Tensor:
        """Return float32 weight + update; raise MergeFailedError when the shapes differ."""
        product = self.up.float() @ self.down.float()
        delta = product.T if self.transposed else product
        if delta.shape != weight.shape:
            raise MergeFailedError(
                f"the adapter's update is {tuple(delta.shape)}, the base weight "
                f"{tuple(weight.shape)}; use the base it was trained on"
            )
        return weight.float() + self.scale * delta


@dataclass(frozen=True)
class Trained:
    """What a checkpoint holds: whole tensors, and low-rank updates by the weight they change."""

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    updates: dict[str, Update] = field(default_factory=dict)


class SafetensorsFolder(Mapping[str, torch.Tensor]):
    """The tensors of all weight files of a model folder, read one at a time."""

    def __init__(self, folder: Path) -> None:
        files = sorted({str(folder / name) for name in _weight_files(folder)})
        self._open: list[Any] = [safe_open(file, framework="pt") for file in files]
        self._places = {name: file for file in self._open for name in file.keys()}  # noqa: SIM118

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._places[name].get_tensor(name)
        return tensor

    def __iter__(self) -> Any:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def plan(self, name: str) -> TensorPlan:
        """Return type and shape of a tensor without reading it."""
        part = self._places[name].get_slice(name)
        return TensorPlan(name, DTYPES[part.get_dtype()], tuple(part.get_shape()))


class MergedWeights:
    """The tensors of a whole model: names and shapes of the base, values of the training."""

    def __init__(
        self, base: SafetensorsFolder, trained: Trained, dtype: torch.dtype, tied: Mapping[str, str]
    ) -> None:
        self._base, self._trained, self._dtype = base, trained, dtype
        self._names = [name for name in base if not (name in tied and name not in trained.tensors)]
        self._updates = _placed(trained.updates, base)
        self._tensors = _placed(trained.tensors, base)

    def plans(self) -> list[TensorPlan]:
        """Return what will be written, in the base's order."""
        return [self._planned(self._base.plan(name)) for name in self._names]

    def tensor(self, name: str) -> torch.Tensor:
        """Return one tensor of the result; raise MergeFailedError when it does not fit."""
        weight = self._base[name]
        if name in self._updates:
            weight = self._updates[name].of(weight)
        elif name in self._tensors:
            weight = _same_shape(name, self._tensors[name], weight)
        return weight.to(self._dtype) if weight.is_floating_point() else weight

    def _planned(self, plan: TensorPlan) -> TensorPlan:
        dtype = self._dtype if plan.dtype.is_floating_point else plan.dtype
        return TensorPlan(plan.name, dtype, plan.shape)


def trained_weights(folder: Path) -> Trained:
    """Read the trainable tensors of a checkpoint's folder; names lose PEFT's prefix."""
    found = SafetensorsFolder(folder)
    config = _adapter_config(folder)
    updates = {
        _plain(name.removesuffix(LORA_A)) + ".weight": _update(
            found[name], found[name.removesuffix(LORA_A) + LORA_B], config
        )
        for name in found
        if name.endswith(LORA_A)
    }
    whole = {_plain(name): found[name] for name in found if not name.endswith((LORA_A, LORA_B))}
    return Trained(whole, updates)


def tied_names(names: Iterable[str], tied: Mapping[str, str]) -> dict[str, str]:
    """Return the names under which PEFT expects whole tensors once more, with their sources.

    A checkpoint holds a tied tensor once; PEFT reads it under the name of each of its modules.
    """
    held = set(names)
    pairs = ((PEFT_PREFIX + alias, PEFT_PREFIX + source) for alias, source in tied.items())
    return {alias: source for alias, source in pairs if source in held and alias not in held}


def _update(down: torch.Tensor, up: torch.Tensor, config: Mapping[str, Any]) -> Update:
    rank = down.shape[0]
    over = math.sqrt(rank) if config.get("use_rslora") else rank
    return Update(
        down=down,
        up=up,
        scale=float(config["lora_alpha"]) / over,
        transposed=bool(config.get("fan_in_fan_out")),
    )


def _adapter_config(folder: Path) -> Mapping[str, Any]:
    path = folder / "adapter_config.json"
    if not path.exists():
        return {}
    config: Mapping[str, Any] = json.loads(path.read_bytes())
    unknown = [key for key in ("alpha_pattern", "rank_pattern", "use_dora") if config.get(key)]
    if unknown:
        raise MergeFailedError(
            f"adapter_config.json: {', '.join(unknown)} cannot be merged; export format Adapter"
        )
    return config


def _weight_files(folder: Path) -> list[str]:
    index = folder / INDEX
    if index.exists():
        return list(json.loads(index.read_bytes())["weight_map"].values())
    return [path.name for path in folder.glob("*.safetensors") if "optimizer-" not in path.name]


def _placed(trained: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """Return trained values by the base file's own name for them.

    A model's files may leave out the name of its inner model (`h.0.attn` for
    `transformer.h.0.attn`). A value without a place is refused: the export would lack it.
    """
    placed = {}
    for name, value in trained.items():
        places = [name, name.partition(".")[2]]
        place = next((candidate for candidate in places if candidate in base), None)
        if place is None:
            raise MergeFailedError(
                f"{name} was trained, but the base model has no such tensor; use the base it was "
                "trained on"
            )
        placed[place] = value
    return placed


def _plain(name: str) -> str:
    return name.removeprefix(PEFT_PREFIX)


def _same_shape(name: str, trained: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    if trained.shape != base.shape:
        raise MergeFailedError(
            f"{name}: trained as {tuple(trained.shape)}, the base has {tuple(base.shape)}; use the "
            "base it was trained on"
        )
    return trained
