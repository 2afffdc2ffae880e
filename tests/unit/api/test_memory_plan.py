"""The memory formula gives the worked figures, and its choice is the cheapest one that fits."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from finetune_api.finetune_experiment import ExperimentSpec
from finetune_api.memory_choice import MemoryQuestion, alternatives, memory_choice
from finetune_api.memory_plan import MemorySettings, least_recomputed, memory_estimate
from finetune_api.model_shape import ModelShape, model_shape

LLAMA_8B = ModelShape(
    layers=32,
    hidden=4096,
    heads=32,
    query_width=4096,
    key_value_width=1024,
    feed_forward=14336,
    vocabulary=128256,
)
LLAMA_70B = replace(
    LLAMA_8B, layers=80, hidden=8192, heads=64, query_width=8192, feed_forward=28672
)
GB = 1_000_000_000


def lora(shape, tokens, **changes):
    trained = shape.adapter_parameters(16)
    return MemorySettings(tokens=tokens, longest=tokens, trained=trained, rank=16, **changes)


def question(available=80, *, shape=LLAMA_8B, length=2048, ranks=1, **blocks):
    spec = {"model": {"name": "org/model"}, "dataset": {"name": "data"}, **blocks}
    return MemoryQuestion(
        spec=ExperimentSpec.model_validate_json(json.dumps(spec)),
        shape=shape,
        ranks=ranks,
        max_length=length,
        compute_dtype="BFloat16",
        trained=shape.adapter_parameters(16),
        available=available and available * GB,
    )


def full(**changes):
    asked = question(adapter={"type": "None"}, **changes)
    trained = asked.shape.linear_parameters + asked.shape.embedding_parameters
    return replace(asked, trained=trained)


@pytest.mark.parametrize(
    ("shape", "settings", "gigabytes"),
    [
        pytest.param(LLAMA_8B, lora(LLAMA_8B, 8192), 54.4, id="8B, no layer recomputed"),
        pytest.param(LLAMA_8B, lora(LLAMA_8B, 8192, checkpointed=32), 21.2, id="8B, all layers"),
        pytest.param(
            LLAMA_8B,
            lora(LLAMA_8B, 4096, checkpointed=32, quantization="NF4"),
            9.3,
            id="8B in NF4, all layers",
        ),
        pytest.param(
            LLAMA_70B,
            lora(LLAMA_70B, 8192, checkpointed=80, quantization="NF4"),
            57.4,
            id="70B in NF4, all layers",
        ),
    ],
)
def test_the_worked_examples_come_out_as_computed_by_hand(shape, settings, gigabytes):
    assert round(memory_estimate(shape, settings).allocated / GB, 1) == gigabytes


@pytest.mark.parametrize("available", [28, 40, 60, 80], ids="{} GB".format)
def test_no_layer_is_recomputed_that_need_not_be(available):
    found = least_recomputed(LLAMA_8B, lora(LLAMA_8B, 4096), available * GB)
    layers = found.settings.checkpointed
    assert found.fits(available * GB)
    if layers:
        fewer = replace(found.settings, checkpointed=layers - 1)
        assert not memory_estimate(LLAMA_8B, fewer).fits(available * GB)


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": 16384},
        {"eager": True},
        {"lean": False},
        {"value_bytes": 4},
        {"weight_bytes": 4},
        {"moment_bytes": 16.0},
        {"strategy": "DDP"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_needs_more_memory_is_estimated_higher(change):
    settings = lora(LLAMA_8B, 8192)
    more = memory_estimate(LLAMA_8B, replace(settings, **change))
    assert more.total > memory_estimate(LLAMA_8B, settings).total


@pytest.mark.parametrize(
    "change",
    [
        {"checkpointed": 32},
        {"quantization": "NF4"},
        {"quantization": "Int8"},
        {"strategy": "FSDP", "shards": 4},
        {"strategy": "ZeRO3", "shards": 4},
    ],
    ids=lambda change: str(next(iter(change.values()))),
)
def test_what_saves_memory_is_estimated_lower(change):
    settings = lora(LLAMA_8B, 8192)
    less = memory_estimate(LLAMA_8B, replace(settings, **change))
    assert less.total < memory_estimate(LLAMA_8B, settings).total


def test_offloaded_state_leaves_the_gpu():
    asked = full(ranks=8, compute={"strategy": "ZeRO3"}, deepspeed={"offloadOptimizer": "CPU"})
    kept = full(ranks=8, compute={"strategy": "ZeRO3"}, deepspeed={})
    assert memory_choice(asked).terms["trained"] < memory_choice(kept).terms["trained"]


@pytest.mark.parametrize("available", [None, 80], ids=["memory not known", "80 GB"])
def test_a_run_that_need_not_save_keeps_its_budget_and_recomputes_nothing(available):
    found = memory_choice(question(available)).settings
    assert (found.tokens, found.checkpointed) == (4096, 0)


def test_a_roomy_gpu_gets_a_roomy_budget_where_the_step_has_the_samples():
    assert memory_choice(question(80, training={"globalBatchSize": 64})).settings.tokens == 8192


def test_a_given_budget_is_never_changed():
    asked = question(40, training={"maxTokensPerDevice": 8192})
    found = memory_choice(asked)
    assert found.settings.tokens == 8192
    assert found.settings.checkpointed > 0
    assert found.fits(40 * GB)


def test_a_smaller_budget_comes_before_recomputation():
    found = memory_choice(question(40, training={"globalBatchSize": 64})).settings
    assert found.checkpointed == 0
    assert found.tokens < 8192


@pytest.mark.parametrize(
    ("setting", "layers"), [("Always", 32), ("Never", 0)], ids=["always", "never"]
)
def test_recomputation_can_be_forced_both_ways(setting, layers):
    asked = question(80, training={"gradientCheckpointing": setting})
    assert memory_choice(asked).settings.checkpointed == layers


def test_preset_low_memory_recomputes_all_layers_of_a_quantised_base():
    found = memory_choice(question(80, preset="LowMemory")).settings
    assert (found.checkpointed, found.quantization) == (32, "NF4")


def test_the_strategy_is_sharded_only_when_a_copy_does_not_fit():
    assert memory_choice(question(80, ranks=8)).settings.strategy == "DDP"
    assert memory_choice(full(ranks=8)).settings.strategy == "FSDP"
    one = question(80, ranks=8, compute={"strategy": "DDP"})
    assert memory_choice(one).settings.strategy == "DDP"


def test_what_cannot_fit_is_answered_with_settings_that_do():
    asked = question(16)
    assert not memory_choice(asked).fits(16 * GB)
    found = alternatives(asked)
    assert 1 <= len(found) <= 3
    assert any("NF4" in one.changes for one in found)
    assert all(one.estimated_bytes <= 0.92 * 16 * GB for one in found)


def test_a_plan_that_may_not_recompute_is_offered_recomputation_first():
    never = {"gradientCheckpointing": "Never", "maxTokensPerDevice": 16384}
    asked = question(40, training=never)
    assert not memory_choice(asked).fits(40 * GB)
    assert "gradientCheckpointing Auto" in alternatives(asked)[0].changes


def test_the_shape_is_read_from_the_names_of_several_families():
    llama = {
        "model_type": "llama",
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "vocab_size": 128256,
        "tie_word_embeddings": False,
    }
    assert model_shape(llama) == LLAMA_8B
    small = {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257}
    shape = model_shape(small)
    assert (shape.feed_forward, shape.gated, shape.tied) == (3072, False, True)
    assert round(shape.linear_parameters + shape.embedding_parameters, -6) == 124_000_000
    assert model_shape({"model_type": "unknown"}) is None


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "gemma2", "attn_logit_softcapping": 50.0}, "caps"),
        ({"model_type": "gpt_oss"}, "sinks"),
        ({"model_type": "bloom"}, "distance"),
        ({"model_type": "mamba", "state_size": 16}, "state"),
        ({"model_type": "qwen3_next", "layer_types": ["linear_attention"]}, "state"),
    ],
    ids=lambda value: value.get("model_type") if isinstance(value, dict) else value,
)
def test_models_whose_samples_cannot_share_a_row_are_known_by_their_configuration(config, reason):
    shape = model_shape({"hidden_size": 8, "num_hidden_layers": 1, **config})
    assert reason in shape.unpackable


def test_window_and_full_attention_can_share_a_row():
    kinds = {"layer_types": ["sliding_attention", "full_attention"]}
    assert model_shape({"hidden_size": 8, "num_hidden_layers": 2, **kinds}).unpackable == ""


def drawn(number):
    """Return a shape and settings that a seed draws."""
    seeded = random.Random(number)
    heads = seeded.choice([8, 16, 32])
    shape = ModelShape(
        layers=seeded.randint(2, 80),
        hidden=heads * 64,
        heads=heads,
        query_width=heads * 64,
        key_value_width=64 * seeded.choice([1, 4, heads]),
        feed_forward=heads * 64 * seeded.choice([2, 3, 4]),
        vocabulary=seeded.choice([1000, 32_000, 256_000]),
        gated=seeded.random() < 0.5,
        experts=seeded.choice([1, 8]),
        active_experts=1,
    )
    rank = seeded.choice([0, 8, 64])
    full = shape.linear_parameters + shape.embedding_parameters
    settings = MemorySettings(
        tokens=seeded.choice([512, 4096, 16384]),
        longest=512,
        trained=shape.adapter_parameters(rank) if rank else full,
        rank=rank,
        quantization=seeded.choice(["None", "NF4", "Int8"]) if rank else "None",
        strategy=seeded.choice(["SingleProcess", "DDP", "FSDP", "ZeRO2", "ZeRO3"]),
        eager=seeded.random() < 0.3,
    )
    shards = 1 if settings.strategy in ("SingleProcess", "DDP") else seeded.choice([2, 8])
    return shape, replace(settings, shards=shards)


@pytest.mark.parametrize("number", range(60))
def test_for_any_shape_the_choice_fits_is_least_and_more_memory_never_recomputes_more(number):
    shape, settings = drawn(number)
    without = memory_estimate(shape, settings)
    all_layers = memory_estimate(shape, replace(settings, checkpointed=shape.layers))
    assert all(size > 0 for size in without.terms.values())
    layers = []
    for share in (0.0, 0.3, 0.6, 1.0):
        total = all_layers.total + share * (without.total - all_layers.total)
        available = round(max(total, all_layers.total) / 0.92) + 1
        found = least_recomputed(shape, settings, available)
        assert found.fits(available)
        k = found.settings.checkpointed
        assert k == 0 or not memory_estimate(shape, replace(settings, checkpointed=k - 1)).fits(
            available
        )
        layers.append(k)
    assert layers == sorted(layers, reverse=True)
    assert (
        least_recomputed(shape, settings, round(min(all_layers.total, without.total) / 2)) is None
    )


@pytest.mark.parametrize("number", range(60))
def test_for_any_shape_more_tokens_take_more_and_more_shards_take_less(number):
    shape, settings = drawn(number)
    one = memory_estimate(shape, settings)
    assert memory_estimate(shape, replace(settings, tokens=settings.tokens * 2)).total > one.total
    if settings.shards > 1:
        spread = replace(settings, shards=settings.shards * 2)
        assert memory_estimate(shape, spread).total < one.total


@pytest.mark.parametrize("available", [12, 16, 20, 24, 40])
@pytest.mark.parametrize("kind", [question, full], ids=["LoRA", "full"])
def test_every_offered_alternative_fits_and_none_is_offered_twice(kind, available):
    found = alternatives(kind(available=available))
    fields = [one.changes.split()[0] for one in found]
    assert len(set(fields)) == len(fields) <= 3
    assert all(one.estimated_bytes <= 0.92 * available * GB for one in found)
