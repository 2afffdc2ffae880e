"""Streamed safetensors files are what the library itself would read."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load, save

from finetune_trainer.weight_shards import TensorPlan, shard_stream, shards, weight_index

TENSORS = {
    "half": torch.arange(6, dtype=torch.float32).reshape(2, 3).to(torch.bfloat16),
    "turned": torch.arange(12, dtype=torch.float32).reshape(3, 4).T,
    "counts": torch.tensor([1, 2, 3]),
    "scalar": torch.tensor(0.5),
}


def plans() -> list[TensorPlan]:
    return [TensorPlan(name, value.dtype, tuple(value.shape)) for name, value in TENSORS.items()]


def test_a_streamed_file_loads_with_the_library():
    loaded = load(b"".join(shard_stream(plans(), TENSORS.__getitem__)))
    assert set(loaded) == set(TENSORS)
    for name, value in TENSORS.items():
        assert loaded[name].dtype == value.dtype
        torch.testing.assert_close(loaded[name], value, rtol=0, atol=0)


def test_every_tensor_is_asked_for_once_and_in_order():
    asked = []
    for _ in shard_stream(plans(), lambda name: asked.append(name) or TENSORS[name]):
        pass
    assert asked == list(TENSORS)


def test_files_stay_below_the_limit_and_a_larger_tensor_stands_alone():
    sizes = {plan.name: plan.bytes for plan in plans()}
    assert sizes == {"half": 12, "turned": 48, "counts": 24, "scalar": 4}
    cut = shards(plans(), 30)
    assert [[plan.name for plan in part] for part in cut] == [
        ["half"],
        ["turned"],
        ["counts", "scalar"],
    ]


def test_the_index_names_the_file_of_every_tensor():
    cut = shards(plans(), 30)
    index = json.loads(weight_index({f"part-{n}": part for n, part in enumerate(cut)}))
    assert index["weight_map"] == {"half": "part-0", "turned": "part-1"} | dict.fromkeys(
        ("counts", "scalar"), "part-2"
    )
    assert index["metadata"]["total_size"] == 88


def test_a_tensor_that_is_not_as_planned_stops_the_file():
    with pytest.raises(ValueError, match="half: planned"):
        list(shard_stream(plans(), lambda _: torch.zeros(1)))


def test_equal_tensors_give_equal_bytes():
    one = b"".join(shard_stream(plans(), TENSORS.__getitem__))
    assert one == b"".join(shard_stream(plans(), TENSORS.__getitem__))
    assert load(one)["half"].tolist() == load(save({"half": TENSORS["half"]}))["half"].tolist()
