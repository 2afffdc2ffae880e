"""Which modules an adapter changes or trains in full: name suffixes and patterns, resolved."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from finetune_api.model_settings import Adapter
from finetune_trainer.errors import ConfigurationError

FIELD = "spec.adapter"


MAMBA = ("mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h")


def adapter_targets(model: Any, adapter: Adapter) -> list[str]:
    """Return the full names of the linear layers that get a low-rank update, in module order.

    Without targetModules these are all linear layers of the blocks. Raises ConfigurationError
    (NoMatchingParameters) for an entry that matches nothing, and where nothing is left.
    """
    linears = [n for n, one in model.named_modules() if isinstance(one, (nn.Linear, Conv1D))]
    blocks = linear_block_names(model, linears)
    asked = adapter.target_modules
    names = _matched(linears, asked, "targetModules") if asked else _automatic(model, blocks)
    if adapter.layers:
        names = [name for name in names if blocks.get(name) in _known(adapter.layers, blocks)]
    excluded = _matched(names, adapter.exclude_modules or (), "excludeModules")
    saved = saved_modules(model, adapter)
    left = [name for name in names if name not in excluded and not _inside(name, saved)]
    if not left:
        raise _unmatched("targetModules", "the settings together leave no linear layer")
    _refuse_tied_head(model, left)
    return left


def _automatic(model: Any, blocks: Iterable[str]) -> list[str]:
    """Return the layers of the blocks but those that Mamba's kernels read without their forward."""
    if model.config.model_type not in MAMBA:
        return list(blocks)
    return [name for name in blocks if name.rpartition(".")[2] != "out_proj"]


def saved_modules(model: Any, adapter: Adapter) -> list[str]:
    """Return the full names of the modules that are trained in full besides the adapter."""
    holders = [n for n, one in model.named_modules() if n and any(True for _ in one.parameters())]
    return _matched(holders, adapter.modules_to_save or (), "modulesToSave")


def linear_block_names(model: Any, names: Iterable[str]) -> dict[str, int]:
    """Return the block number of every name that lies in a block of the model."""
    count = model.config.get_text_config().num_hidden_layers
    lists = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    inside = re.compile(rf"(?:{'|'.join(map(re.escape, lists))})\.(\d+)\." if lists else r"(?!)")
    return {name: int(found[1]) for name in names if (found := inside.match(name))}


def _matched(names: Sequence[str], entries: Iterable[str], field: str) -> list[str]:
    """Return what suffixes and shell patterns match; each must match something."""
    found: set[str] = set()
    for entry in entries:
        matches = {name for name in names if _matches(name, entry)}
        if not matches:
            raise _unmatched(field, f"{entry!r} matches no module of the model")
        found |= matches
    return [name for name in names if name in found]


def _matches(name: str, entry: str) -> bool:
    if any(sign in entry for sign in "*?["):
        return fnmatchcase(name, entry) or fnmatchcase(name, f"*.{entry}")
    return name == entry or name.endswith(f".{entry}")


def _known(layers: Sequence[int], blocks: dict[str, int]) -> set[int]:
    unknown = sorted(set(layers) - set(blocks.values()))
    if unknown:
        raise _unmatched("layers", f"the model has no blocks {unknown}")
    return set(layers)


def _inside(name: str, modules: Iterable[str]) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in modules)


def _refuse_tied_head(model: Any, names: Sequence[str]) -> None:
    head = model.get_output_embeddings()
    tied = head is not None and head.weight is model.get_input_embeddings().weight
    if tied and any(model.get_submodule(name) is head for name in names):
        raise ConfigurationError(
            f"{FIELD}.targetModules: the head shares its weight with the embeddings, and a merge "
            "would part them; leave the head out or name it in adapter.modulesToSave",
            reason="NoMatchingParameters",
        )


def _unmatched(field: str, problem: str) -> ConfigurationError:
    return ConfigurationError(
        f"{FIELD}.{field}: {problem}; correct the names or remove the field",
        reason="NoMatchingParameters",
    )
