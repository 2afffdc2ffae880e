"""What frozen weights are held in must go with the arithmetic and the strategy."""

from __future__ import annotations

import json

import pytest

from finetune_api.finetune_experiment import ExperimentSpec
from finetune_api.model_settings import Dtype
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.weight_checks import check_weights


def spec(model=None, **blocks) -> ExperimentSpec:
    value = {"model": {"name": "lab/toy"} | (model or {}), "dataset": {"name": "data"}} | blocks
    return ExperimentSpec.model_validate_json(json.dumps(value))


@pytest.mark.parametrize(
    ("settings", "strategy", "compute", "field"),
    [
        pytest.param({"model": {"dtype": "BFloat16"}}, "DDP", "Float32", "dtype", id="16 in 32"),
        pytest.param({"model": {"dtype": "Float16"}}, "DDP", "BFloat16", "dtype", id="two 16s"),
        pytest.param({"preset": "LowMemory"}, "ZeRO3", "BFloat16", "quantization", id="preset"),
        pytest.param(
            {"model": {"quantization": "Int8"}}, "FSDP", "BFloat16", "quantization", id="8 bits cut"
        ),
    ],
)
def test_what_could_not_be_computed_is_refused_by_field(settings, strategy, compute, field):
    with pytest.raises(ConfigurationError, match=rf"spec\.model\.{field}:"):
        check_weights(spec(**settings), strategy, Dtype(compute))


@pytest.mark.parametrize(
    ("settings", "strategy", "compute"),
    [
        ({}, "ZeRO3", "BFloat16"),
        ({"model": {"dtype": "Float32"}}, "DDP", "BFloat16"),
        ({"model": {"dtype": "BFloat16"}}, "FSDP", "BFloat16"),
        ({"preset": "LowMemory"}, "FSDP", "BFloat16"),
        ({"model": {"quantization": "Int8"}}, "DDP", "Float32"),
    ],
    ids=str,
)
def test_what_can_be_computed_passes(settings, strategy, compute):
    check_weights(spec(**settings), strategy, Dtype(compute))
