"""What a strategy cannot do is refused with the field, in preparation."""

from __future__ import annotations

import pytest

from finetune_api.finetune_experiment import ExperimentSpec
from finetune_api.model_settings import Dtype
from finetune_trainer.deepspeed_config import deepspeed_config
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.strategy_checks import check_strategy, group_size


def spec(**blocks):
    values = {
        "model": {"huggingFace": {"repository": "tiny/model"}},
        "dataset": {"name": "chats"},
        "storage": {"volumeClaim": {"claimName": "results"}},
    }
    return ExperimentSpec.model_validate(values | blocks, strict=False)


REFUSED = {
    "8-bit moments in blocks": (
        "FSDP",
        {"training": {"optimizer": "AdamW8bit"}},
        "spec.training.optimizer",
    ),
    "an optimizer without partitions": (
        "ZeRO2",
        {"training": {"optimizer": "RMSprop"}},
        "spec.training.optimizer",
    ),
    "groups that do not divide the ranks": (
        "FSDP",
        {"fsdp": {"shardGroupSize": 3}},
        "spec.fsdp.shardGroupSize",
    ),
    "an entry that the trainer owns": (
        "ZeRO2",
        {"deepspeed": {"config": {"optimizer": "{}"}}},
        "spec.deepspeed.config.optimizer",
    ),
    "a field's own entry, nested": (
        "ZeRO3",
        {"deepspeed": {"config": {"zero_optimization": '{"stage": 1}'}}},
        "spec.deepspeed.config.zero_optimization",
    ),
    "an entry that is no JSON": (
        "ZeRO2",
        {"deepspeed": {"config": {"prescale_gradients": "yes"}}},
        "spec.deepspeed.config.prescale_gradients",
    ),
}


@pytest.mark.parametrize(("strategy", "blocks", "field"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_act_is_refused_with_its_field(strategy, blocks, field):
    with pytest.raises(ConfigurationError, match=field):
        check_strategy(spec(**blocks), strategy, 4, Dtype.FLOAT32)


def test_float16_is_refused_under_deepspeed_only():
    check_strategy(spec(), "FSDP", 2, Dtype.FLOAT16)
    with pytest.raises(ConfigurationError, match=r"spec\.training\.computeDtype"):
        check_strategy(spec(), "ZeRO2", 2, Dtype.FLOAT16)


@pytest.mark.parametrize("strategy", ["SingleProcess", "DDP"])
def test_replicated_strategies_take_every_optimizer(strategy):
    check_strategy(spec(training={"optimizer": "AdamW8bit"}), strategy, 4, Dtype.FLOAT32)


@pytest.mark.parametrize(("asked", "expected"), [(None, 4), (2, 2), (1, 1)], ids=str)
def test_a_shard_group_is_all_ranks_unless_asked(asked, expected):
    assert group_size(spec(fsdp={"shardGroupSize": asked} if asked else {}), 4) == expected


FIELDS = {
    "allgatherBucketSize": ("allgather_bucket_size", 1000),
    "reduceBucketSize": ("reduce_bucket_size", 2000),
    "stage3PrefetchBucketSize": ("stage3_prefetch_bucket_size", 3000),
    "stage3ParamPersistenceThreshold": ("stage3_param_persistence_threshold", 40),
    "stage3MaxLiveParameters": ("stage3_max_live_parameters", 5000),
    "stage3MaxReuseDistance": ("stage3_max_reuse_distance", 6000),
    "overlapCommunication": ("overlap_comm", False),
    "contiguousGradients": ("contiguous_gradients", False),
    "offloadOptimizer": ("offload_optimizer", "CPU"),
    "offloadParameters": ("offload_param", "CPU"),
}


@pytest.mark.parametrize(("field", "entry"), FIELDS.items(), ids=FIELDS.keys())
def test_every_field_reaches_deepspeed(field, entry):
    name, value = entry
    found = deepspeed_config(spec(deepspeed={field: value}), stage=3, half=False, pinned=False)
    place = {"device": "cpu", "pin_memory": False}
    assert found["zero_optimization"][name] == (place if value == "CPU" else value)


def test_an_absent_field_leaves_the_librarys_default():
    zero = deepspeed_config(spec(), stage=2, half=False, pinned=False)["zero_optimization"]
    assert zero == {"stage": 2, "overlap_comm": True, "contiguous_gradients": True}


def test_further_entries_are_added_nested_ones_too():
    config = {"prescale_gradients": "true", "zero_optimization": '{"sub_group_size": 7}'}
    found = deepspeed_config(spec(deepspeed={"config": config}), stage=3, half=True, pinned=True)
    assert found["prescale_gradients"] is True
    assert found["zero_optimization"]["sub_group_size"] == 7
    assert found["bf16"]["enabled"]
