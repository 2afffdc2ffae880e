"""What the parameters of a model that was built without values begin with, tensor by tensor.

Rank 0 alone reads the base; a sharded engine asks it for one whole tensor after the other and gives
every rank its rows. No host ever holds the model.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter
from transformers.pytorch_utils import Conv1D

from finetune_trainer.adapter import MAGNITUDE, drawn_factor, saved_name
from finetune_trainer.base_form import BaseForm
from finetune_trainer.first_shards import saved_buffers
from finetune_trainer.merge import SafetensorsFolder
from finetune_trainer.quantisation import Quantiser, is_coded, take_codes
from finetune_trainer.vocabulary import NewRow, grown_table, table_names

PREFIX = "base_model.model."
WRAPPINGS = (".base_layer", ".original_module", ".modules_to_save.default", ".token_adapter")
TOKEN_ROWS = ".trainable_tokens_delta."  # noqa: S105 - a name


@dataclass(frozen=True)
class BaseWeights:
    """The tensors of a base by the library's names, in the type they are held in."""

    tensors: Mapping[str, Tensor]
    held: torch.dtype
    tables: Sequence[str] = ()
    """tables have a row per token; `before` of them, until they grow by `rows`."""
    before: int = 0
    rows: Sequence[NewRow] = ()
    tied: Mapping[str, str] = field(default_factory=dict)
    """tied names tensors that are others under a second name."""

    def __getitem__(self, name: str) -> Tensor:
        """Return a whole tensor as the model that is trained starts with it."""
        name = name if name in self.tensors else self.tied[name]
        tensor = self.tensors[name].detach()
        tensor = tensor.to(self.held) if tensor.is_floating_point() else tensor
        if self.rows and name in self.tables:
            return grown_table(tensor, self.before, self.rows)
        return tensor


def base_weights(
    form: BaseForm, folder: Path, model: Any, held: torch.dtype, rows: Sequence[NewRow]
) -> BaseWeights:
    """Return what the skeleton `model` of a base begins with; `rows` are those it will grow by.

    Files that hold the tensors as the architecture names and shapes them are read one tensor at a
    time. Weights that are drawn or that the library converts exist once as a whole, on rank 0.
    Raises ConfigurationError where files lack tensors.
    """
    tensors: Mapping[str, Tensor] = {}
    if form.seed is None:
        tensors = SafetensorsFolder(folder)
    if not _as_they_are(tensors, model):
        tensors = form.model(folder, held).state_dict()
    tables = table_names(model)
    before = min(len(model.get_parameter(name)) for name in tables)
    return BaseWeights(tensors, held, tables, before, rows, model.all_tied_weights_keys)


def _as_they_are(tensors: Mapping[str, Tensor], model: Any) -> bool:
    if not isinstance(tensors, SafetensorsFolder) or _is_converted(model):
        return False
    wanted = dict(model.named_parameters()) | dict(saved_buffers(model))
    return all(
        name in tensors and tensors.plan(name).shape == one.shape for name, one in wanted.items()
    )


def _is_converted(model: Any) -> bool:
    return any(isinstance(one, WeightConverter) for one in get_model_conversion_mapping(model))


@dataclass(frozen=True)
class FirstWeights:
    """The first values of a model made trainable, by its parameters' names."""

    base: BaseWeights
    model: nn.Module
    seed: int = 0
    quantiser: Quantiser | None = None
    adapter: Mapping[str, Tensor] = field(default_factory=dict)
    """adapter holds the tensors that are trained further, by the names they are saved under."""

    def __call__(self, name: str) -> Tensor:
        """Return a parameter or saved buffer, whole, before any quantisation."""
        if (known := self.adapter.get(saved_name(name))) is not None:
            return known
        if MAGNITUDE in name:
            return self._norms(name.partition(MAGNITUDE)[0])
        if ".lora_" in name:
            return self._factor(name)
        tensor = self.base[_plain(name)]
        if TOKEN_ROWS in name:
            layer: Any = self.model.get_submodule(name.partition(TOKEN_ROWS)[0])
            return tensor[layer.token_indices["default"]]
        return tensor

    def layer(self, name: str, hollow: nn.Module) -> nn.Module:
        """Return a copy of an adapted layer with values."""
        made = copy.deepcopy(hollow)
        for path, parameter in list(made.named_parameters()):
            holder, _, own = path.rpartition(".")
            module, value = made.get_submodule(holder), self(f"{name}.{path}")
            if is_coded(module, own):
                value = take_codes(module, value, parameter.dtype)
            setattr(module, own, nn.Parameter(value.to(parameter.dtype), requires_grad=False))
        return made

    def _factor(self, name: str) -> Tensor:
        shape = self.model.get_parameter(name).shape
        return drawn_factor(name, shape, self.seed) if ".lora_A" in name else torch.zeros(shape)

    def _norms(self, name: str) -> Tensor:
        """Return DoRA's first magnitudes: norms of the weight as products see it, by outputs."""
        layer: Any = self.model.get_submodule(name)
        weight = self.base[f"{_plain(name)}.weight"]
        if self.quantiser is not None and is_coded(layer.base_layer, "weight"):
            weight = self.quantiser.seen(weight).to(weight.dtype)
        if isinstance(layer.base_layer, Conv1D):
            weight = weight.T
        norms: Tensor = torch.linalg.norm(weight, dim=1)
        return norms


def _plain(name: str) -> str:
    """Return the library's name of what PEFT has wrapped."""
    for one in WRAPPINGS:
        name = name.replace(one, "")
    return name.replace(f"{TOKEN_ROWS}default", ".weight").removeprefix(PREFIX)
