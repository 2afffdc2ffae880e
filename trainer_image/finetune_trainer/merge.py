"""Weights of an export, made tensor by tensor: base plus adapter, or the trained tensors.

Sums are taken in 32 bit whatever the types of base and result, and no more than one tensor of the
result exists at a time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from finetune_trainer.errors import ConfigurationError
from finetune_trainer.model_record import recorded_model
from finetune_trainer.weight_shards import DTYPES, TensorPlan

PEFT_PREFIX = "base_model.model."
LORA_A, LORA_B, MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"
ROWS = ".token_adapter.trainable_tokens_delta"
INDEX = "model.safetensors.index.json"


class MergeFailedError(ConfigurationError):
    """Trained tensors do not fit the base model."""

    reason = "MergeFailed"


@dataclass(frozen=True)
class Update:
    """A low-rank update of one weight: scale x B @ A, with DoRA's magnitude where there is one."""

    down: torch.Tensor
    up: torch.Tensor
    scale: float
    transposed: bool
    magnitude: torch.Tensor | None = None

    def of(self, weight: torch.Tensor) -> torch.Tensor:
        """Return float32 weight + update; raise MergeFailedError when the shapes differ.

        With a magnitude m the sum is m / ||sum|| x sum, by outputs (DoRA, arXiv:2402.09353).
        """
        delta = self.scale * (self.up.float() @ self.down.float())
        whole = weight.float().T if self.transposed else weight.float()
        if delta.shape != whole.shape:
            raise MergeFailedError(
                f"the adapter's update is {tuple(delta.shape)}, the base weight "
                f"{tuple(whole.shape)}; use the base it was trained on"
            )
        total = whole + delta
        if self.magnitude is not None:
            total *= (self.magnitude.float() / total.norm(dim=1))[:, None]
        return total.T if self.transposed else total


@dataclass(frozen=True)
class Rows:
    """Rows of a table that were trained, by their numbers; they may lie beyond its end."""

    numbers: Sequence[int]
    values: torch.Tensor

    def of(self, table: torch.Tensor) -> torch.Tensor:
        """Return the float32 table with the trained rows in it; a row between is zero."""
        whole = table.new_zeros(self.shape(tuple(table.shape)), dtype=torch.float32)
        whole[: table.shape[0]] = table
        whole[list(self.numbers)] = self.values.float()
        return whole

    def shape(self, table: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the table with all rows."""
        return (max(table[0], 1 + max(self.numbers)), *table[1:])


@dataclass(frozen=True)
class Trained:
    """What a checkpoint holds: whole tensors, updates and rows by the weight they change."""

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    updates: dict[str, Update] = field(default_factory=dict)
    rows: dict[str, Rows] = field(default_factory=dict)
    vocabulary: int = 0
    """vocabulary is the number of rows that whole tables may have grown to."""


class SafetensorsFolder(Mapping[str, torch.Tensor]):
    """The tensors of all weight files of a model folder, read one at a time.

    Several ranks may have written rows of one tensor each; they are put together here.
    """

    def __init__(self, folder: Path) -> None:
        self._places: dict[str, list[Any]] = {}
        for path in sorted({folder / name for name in _weight_files(folder)}):
            file: Any = safe_open(str(path), framework="pt")
            for name in file.keys():  # noqa: SIM118 - no mapping
                self._places.setdefault(name, []).append(file)

    def __getitem__(self, name: str) -> torch.Tensor:
        # Files are numbered in the order of their rows.
        parts = [file.get_tensor(name) for file in self._places[name]]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def __iter__(self) -> Any:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def plan(self, name: str) -> TensorPlan:
        """Return type and shape of a tensor without reading it."""
        parts = [file.get_slice(name) for file in self._places[name]]
        shape = list(parts[0].get_shape())
        if len(parts) > 1:
            shape[0] = sum(part.get_shape()[0] for part in parts)
        return TensorPlan(name, DTYPES[parts[0].get_dtype()], tuple(shape))


class SeenFolder(SafetensorsFolder):
    """A base as its adapter saw it: quantised weights are rounded to their codes, in float32."""

    def __init__(
        self, folder: Path, seen: Callable[[torch.Tensor], torch.Tensor], names: Iterable[str]
    ):
        super().__init__(folder)
        self._seen, self._rounded = seen, set(_placed(dict.fromkeys(names, ""), self._places))

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor = super().__getitem__(name)
        return self._seen(tensor) if name in self._rounded else tensor

    def plan(self, name: str) -> TensorPlan:
        """Return type and shape of a tensor without reading it."""
        plan = super().plan(name)
        return replace(plan, dtype=torch.float32) if name in self._rounded else plan


class MergedWeights:
    """The tensors of a whole model: names of the base, values of the training.

    Without a `dtype` changed tensors become float32 and all others keep their own.
    """

    def __init__(
        self,
        base: SafetensorsFolder,
        trained: Trained,
        dtype: torch.dtype | None,
        tied: Mapping[str, str],
    ) -> None:
        self._base, self._trained, self._dtype = base, trained, dtype
        self._names = [name for name in base if not (name in tied and name not in trained.tensors)]
        self._updates = _placed(trained.updates, base)
        self._tensors = _placed(trained.tensors, base)
        self._rows = _placed({n: r for n, r in trained.rows.items() if n not in tied}, base)

    def plans(self) -> list[TensorPlan]:
        """Return what will be written, in the base's order."""
        return [self._planned(self._base.plan(name)) for name in self._names]

    def tensor(self, name: str) -> torch.Tensor:
        """Return one tensor of the result; raise MergeFailedError when it does not fit."""
        weight = self._base[name]
        if name in self._updates:
            weight = self._updates[name].of(weight)
        elif name in self._tensors:
            weight = self._fitting(name, weight)
        if name in self._rows:
            weight = self._rows[name].of(weight)
        planned = self._planned(self._base.plan(name))
        return weight.to(planned.dtype)

    def _planned(self, plan: TensorPlan) -> TensorPlan:
        shape, dtype = plan.shape, plan.dtype
        if plan.name in self._tensors:
            shape = tuple(self._tensors[plan.name].shape)
        if plan.name in self._rows:
            shape = self._rows[plan.name].shape(shape)
        changed = any(plan.name in one for one in (self._updates, self._tensors, self._rows))
        if dtype.is_floating_point:
            dtype = self._dtype or (torch.float32 if changed else dtype)
        return TensorPlan(plan.name, dtype, shape)

    def _fitting(self, name: str, base: torch.Tensor) -> torch.Tensor:
        trained: torch.Tensor = self._tensors[name]
        grown = (self._trained.vocabulary, *base.shape[1:])
        if trained.shape != base.shape and tuple(trained.shape) != grown:
            raise MergeFailedError(
                f"{name}: trained as {tuple(trained.shape)}, the base has {tuple(base.shape)}; use "
                "the base it was trained on"
            )
        return trained


def trained_weights(folder: Path) -> Trained:
    """Read the trainable tensors of a checkpoint's folder; names lose PEFT's prefix."""
    found = SafetensorsFolder(folder)
    config = _adapter_config(folder)
    parts = {
        name.removesuffix(LORA_A): (found[name], found[name.removesuffix(LORA_A) + LORA_B])
        for name in found
        if name.endswith(LORA_A)
    }
    updates = {
        _plain(name) + ".weight": _update(down, up, config, found.get(name + MAGNITUDE))
        for name, (down, up) in parts.items()
    }
    numbers = config.get("trainable_token_indices") or {}
    rows = {
        _plain(name.removesuffix(ROWS)) + ".weight": Rows(
            numbers[_plain(name.removesuffix(ROWS))], found[name]
        )
        for name in found
        if name.endswith(ROWS)
    }
    special = (LORA_A, LORA_B, MAGNITUDE, ROWS)
    whole = {_plain(name): found[name] for name in found if not name.endswith(special)}
    return Trained(whole, updates, rows, recorded_model(folder).vocabulary)


def tied_names(names: Iterable[str], tied: Mapping[str, str]) -> dict[str, str]:
    """Return the names under which PEFT expects whole tensors once more, with their sources.

    A checkpoint holds a tied tensor once; PEFT reads it under the name of each of its modules.
    """
    held = set(names)
    pairs = ((PEFT_PREFIX + alias, PEFT_PREFIX + source) for alias, source in tied.items())
    return {alias: source for alias, source in pairs if source in held and alias not in held}


def _update(
    down: torch.Tensor,
    up: torch.Tensor,
    config: Mapping[str, Any],
    magnitude: torch.Tensor | None,
) -> Update:
    rank = down.shape[0]
    over = math.sqrt(rank) if config.get("use_rslora") else rank
    return Update(
        down=down,
        up=up,
        scale=float(config["lora_alpha"]) / over,
        transposed=bool(config.get("fan_in_fan_out")),
        magnitude=magnitude,
    )


def _adapter_config(folder: Path) -> Mapping[str, Any]:
    path = folder / "adapter_config.json"
    if not path.exists():
        return {}
    config: Mapping[str, Any] = json.loads(path.read_bytes())
    unknown = [key for key in ("alpha_pattern", "rank_pattern") if config.get(key)]
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
