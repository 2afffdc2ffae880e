"""The configuration a model is built from, with the dropout and first weights of the spec."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from finetune_trainer.errors import ConfigurationError
from finetune_trainer.plan import INIT, mix


def model_config(folder: Path, dropout: float | None = None) -> PretrainedConfig:
    """Return the configuration of a folder, with every dropout of it set where one is given.

    Raises ConfigurationError: UnsupportedModel for unknown architectures, DeadSetting for a dropout
    where the architecture has none.
    """
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (ValueError, KeyError, OSError) as error:
        raise ConfigurationError(
            f"spec.model: its configuration is not known ({type(error).__name__}); use a model "
            "whose architecture transformers has",
            reason="UnsupportedModel",
        ) from error
    if dropout is not None:
        _set_dropout(config, dropout)
    return config


def random_model(
    config: PretrainedConfig, dtype: torch.dtype, *, seed: int, attention: str
) -> nn.Module:
    """Return a model of freshly drawn weights, the same on every rank and in every attempt."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(seed, INIT))
        # Drawn in float32: the same numbers whatever type they are held in.
        model: nn.Module = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation=attention
        )
    return model.to(dtype)


def has_dropout(config: Any) -> bool:
    """Tell whether the model draws dropout of its own."""
    return any(value > 0 for _, value in _dropouts(config.get_text_config()))


def _set_dropout(config: PretrainedConfig, dropout: float) -> None:
    text = config.get_text_config()
    names = [name for name, _ in _dropouts(text)]
    if not names:
        raise ConfigurationError(
            f"spec.model.intermediateDropout: {type(config).__name__} has no dropout; remove it",
            reason="DeadSetting",
        )
    for name in names:
        setattr(text, name, dropout)


def _dropouts(config: Any) -> list[tuple[str, float]]:
    """Return the dropouts by name: numbers named dropout or pdrop, those of classifiers left out.

    Layer drop is not one of them: it leaves whole layers out.
    """
    return [
        (name, float(value))
        for name, value in vars(config).items()
        if name.endswith(("dropout", "pdrop", "dropout_prob", "drop_rate"))
        and "classifier" not in name
        and "summary" not in name
        and isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
    ]
