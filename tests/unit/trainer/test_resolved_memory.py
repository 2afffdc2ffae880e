"""What cannot run or fit is refused in preparation, with the field, the numbers and a remedy."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from finetune_api.compute_settings import TrainingCompute
from finetune_api.finetune_experiment import ExperimentSpec
from finetune_api.gpu_memory import known_gpu_memory
from finetune_api.model_shape import ModelShape
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.resolved_memory import padding_notice
from finetune_trainer.resolved_plan import PreparedFacts, resolved_plan

SHAPE = ModelShape(
    layers=32,
    hidden=4096,
    heads=32,
    query_width=4096,
    key_value_width=1024,
    feed_forward=14336,
    vocabulary=128256,
)
CAPPED = replace(SHAPE, unpackable="its attention caps scores")
STATEFUL = replace(SHAPE, unpackable="its layers carry state along the row")


def planned(shape=SHAPE, **blocks):
    given = {"model": {"name": "org/model"}, "dataset": {"name": "data"}}
    spec = given | {
        name: given.get(name, {}) | values if isinstance(values, dict) else values
        for name, values in blocks.items()
    }
    facts = PreparedFacts(
        lengths=[512] * 64,
        supervised=[100] * 64,
        max_length=512,
        template="Raw",
        prepared_digest="sha256:0",
        model_identity="org/model@1",
        seed=1,
        shape=shape,
    )
    return resolved_plan(ExperimentSpec.model_validate_json(json.dumps(spec)), facts)


@pytest.mark.parametrize(
    ("shape", "blocks", "batching", "attention"),
    [
        pytest.param(SHAPE, {}, "Packed", "Varlen", id="dense model on a GPU"),
        pytest.param(SHAPE, {"compute": {"gpusPerNode": 0}}, "Packed", "SDPA", id="on a CPU"),
        pytest.param(CAPPED, {}, "Padded", "Eager", id="soft-capping"),
        pytest.param(STATEFUL, {}, "Padded", "SDPA", id="state along the row"),
        pytest.param(
            SHAPE, {"training": {"batching": "Padded"}}, "Padded", "SDPA", id="asked padded"
        ),
        pytest.param(SHAPE, {"model": {"attention": "Eager"}}, "Padded", "Eager", id="asked eager"),
        pytest.param(SHAPE, {"model": {"attention": "SDPA"}}, "Packed", "SDPA", id="asked SDPA"),
        pytest.param(
            SHAPE,
            {"model": {"attention": "FlashAttention3"}},
            "Packed",
            "FlashAttention3",
            id="asked FlashAttention3",
        ),
        pytest.param(
            SHAPE, {"training": {"computeDtype": "Float32"}}, "Packed", "SDPA", id="32 bits"
        ),
    ],
)
def test_batching_and_attention_follow_from_model_device_and_wishes(
    shape, blocks, batching, attention
):
    status = planned(shape, **blocks)
    assert (status.batching, status.attention) == (batching, attention)


@pytest.mark.parametrize(
    ("shape", "blocks", "field"),
    [
        pytest.param(CAPPED, {"training": {"batching": "Packed"}}, "training.batching", id="caps"),
        pytest.param(
            STATEFUL, {"training": {"batching": "Packed"}}, "training.batching", id="state"
        ),
        pytest.param(
            SHAPE,
            {"training": {"batching": "Packed"}, "model": {"attention": "Eager"}},
            "training.batching",
            id="eager and packed",
        ),
        pytest.param(
            SHAPE,
            {"model": {"attention": "Varlen"}, "compute": {"gpusPerNode": 0}},
            "model.attention",
            id="varlen without GPU",
        ),
        pytest.param(
            SHAPE,
            {"model": {"attention": "Varlen"}, "training": {"computeDtype": "Float32"}},
            "model.attention",
            id="varlen in 32 bits",
        ),
        pytest.param(
            replace(SHAPE, query_width=512 * 32),
            {"model": {"attention": "FlashAttention2"}},
            "model.attention",
            id="heads too large",
        ),
        pytest.param(STATEFUL, {"model": {"attention": "Varlen"}}, "model.attention", id="padded"),
        pytest.param(
            CAPPED, {"model": {"attention": "SDPA"}}, "model.attention", id="SDPA with capping"
        ),
        pytest.param(
            SHAPE,
            {"training": {"compile": "Always"}, "adapter": {"dropout": 0.1}},
            "training.compile",
            id="compiled dropout",
        ),
        pytest.param(
            SHAPE,
            {"training": {"compile": "Always"}, "compute": {"strategy": "FSDP"}},
            "training.compile",
            id="compiled shards",
        ),
        pytest.param(None, {"compute": {"gpuMemory": "80Gi"}}, "compute.gpuMemory", id="no shape"),
    ],
)
def test_what_cannot_work_together_is_refused_by_the_name_of_its_field(shape, blocks, field):
    with pytest.raises(ConfigurationError, match=f"spec.{field}: .+; ") as refused:
        planned(shape, **blocks)
    assert refused.value.reason == "DeadSetting"


def test_a_run_that_cannot_fit_is_refused_with_its_terms_and_settings_that_fit():
    with pytest.raises(ConfigurationError, match="gpuMemory") as refused:
        planned(compute={"gpuMemory": "16Gi"})
    message = refused.value.message
    assert refused.value.reason == "MemoryPlanExceeded"
    assert "weights 16.1 GB" in message
    assert "model.quantization NF4 (" in message


@pytest.mark.parametrize(
    ("products", "resource", "known"),
    [
        (["NVIDIA-H100-80GB-HBM3"], "nvidia.com/gpu", "80G"),
        (["NVIDIA-H100-80GB-HBM3", "NVIDIA-A100-SXM4-40GB"], "nvidia.com/gpu", "40G"),
        (["Tesla-T4", "NVIDIA-L4"], "nvidia.com/gpu", "16G"),
        (["NVIDIA-A100-SXM4-40GB-MIG-1g.5gb"], "nvidia.com/gpu", "5G"),
        (["NVIDIA-A100-SXM4-40GB"], "nvidia.com/mig-2g.10gb", "10G"),
        (["NVIDIA-H100-80GB-HBM3", "Some-New-GPU"], "nvidia.com/gpu", None),
    ],
)
def test_products_of_known_size_are_planned_with_and_others_are_not(products, resource, known):
    compute = TrainingCompute(gpu_products=products, gpu_resource_name=resource)
    assert known_gpu_memory(compute) == known
    given = compute.model_copy(update={"gpu_memory": "7Gi"})
    assert known_gpu_memory(given) == "7Gi"


def test_the_smallest_product_decides_whether_a_run_fits():
    with pytest.raises(ConfigurationError, match="92 % of 16G"):
        planned(compute={"gpuProducts": ["Tesla-T4", "NVIDIA-H100-80GB-HBM3"]})
    status = planned(compute={"gpuProducts": ["NVIDIA-H100-80GB-HBM3"]})
    assert status.memory.available_bytes == 80 * 10**9


def test_the_memory_plan_and_what_it_chose_are_recorded():
    status = planned(compute={"gpuMemory": "24Gi"}, training={"maxTokensPerDevice": 4096})
    assert status.memory.verdict == "FitsWithRecomputation"
    assert 0 < status.checkpointed_layers <= 32
    assert status.memory.estimated_bytes <= 0.92 * status.memory.available_bytes
    assert status.max_tokens_per_device == 4096


def test_without_known_memory_the_device_decides_on_recomputation():
    assert planned().checkpointed_layers is None
    assert planned(training={"gradientCheckpointing": "Always"}).checkpointed_layers == 32
    assert planned(compute={"gpusPerNode": 0}).checkpointed_layers == 0


@pytest.mark.parametrize(
    ("preset", "epochs", "rank", "quantization", "layers"),
    [
        ("Balanced", 1.0, 16, "None", 0),
        ("QuickLook", 1.0, 8, "None", 0),
        ("Quality", 3.0, 64, "None", 0),
        ("LowMemory", 1.0, 8, "NF4", 32),
    ],
)
def test_presets_fill_what_is_left_open(preset, epochs, rank, quantization, layers):
    status = planned(preset=preset, compute={"gpuMemory": "192Gi"})
    assert status.preset == f"{preset} 1"
    assert (status.epochs, status.rank, status.quantization) == (epochs, rank, quantization)
    assert status.checkpointed_layers == layers


def test_a_given_value_wins_over_the_preset():
    status = planned(
        preset="LowMemory",
        adapter={"rank": 4},
        model={"quantization": "None"},
        training={"epochs": 2.0, "perDeviceBatchSize": 3, "gradientCheckpointing": "Never"},
    )
    found = (status.rank, status.quantization, status.epochs, status.per_device_batch_size)
    assert found == (4, "None", 2.0, 3)
    assert status.checkpointed_layers == 0


@pytest.mark.parametrize(
    ("shape", "training", "told"),
    [
        (CAPPED, {}, "caps scores"),
        (CAPPED, {"batching": "Padded"}, ""),
        (SHAPE, {}, ""),
    ],
    ids=["fallback", "asked for", "packed"],
)
def test_rows_that_are_padded_without_being_asked_for_are_told_with_the_reason(
    shape, training, told
):
    given = {"model": {"name": "org/model"}, "dataset": {"name": "data"}, "training": training}
    spec = ExperimentSpec.model_validate_json(json.dumps(given))
    notice = padding_notice(spec, shape, planned(shape, training=training))
    assert told in notice
    assert bool(notice) == bool(told)


def test_an_adapter_on_random_weights_is_refused():
    with pytest.raises(ConfigurationError, match=r"model\.initialWeights: an adapter"):
        planned(model={"initialWeights": "Random"})
    planned(model={"initialWeights": "Random"}, adapter={"type": "None"})
