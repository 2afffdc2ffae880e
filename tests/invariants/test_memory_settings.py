"""What changes memory, speed or layout changes no trajectory; other arithmetic stays close."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import finetune_trainer.run  # noqa: F401 - loaded once, then inherited by every forked rank
from finetune_trainer import loss_scale
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.tensor_file import read_tensors
from one_rank import losses_and_norms, one_rank
from tiny_models import SHAPE
from toy_llama import token_cache, toy_llama_folder
from training_ground import TrainingGround

STEPS = 4
PLAN = {"globalBatchSize": 4, "totalSteps": STEPS, "stepsPerEpoch": STEPS, "epochs": 1.0}
CACHE = token_cache(4 * STEPS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return toy_llama_folder(tmp_path_factory.mktemp("model") / "toy")


def steps(folder, model, plan=None, *, adapter="LoRA", **training):
    run = one_rank(
        folder, model, CACHE, PLAN | (plan or {}), adapter={"type": adapter}, training=training
    )
    return losses_and_norms(run)


@pytest.mark.parametrize("adapter", ["LoRA", "None"])
@pytest.mark.parametrize(
    ("plan", "training"),
    [
        pytest.param({"checkpointedLayers": 1}, {}, id="one layer recomputed"),
        pytest.param({"checkpointedLayers": 2}, {}, id="all layers recomputed"),
        pytest.param({}, {"probeMemory": False}, id="no probe"),
        pytest.param({}, {"deterministic": True}, id="deterministic"),
    ],
)
def test_what_needs_the_same_sums_gives_the_same_steps_bit_for_bit(
    folder, tmp_path, adapter, plan, training
):
    expected = steps(tmp_path / "plain", folder, adapter=adapter)
    try:
        assert steps(tmp_path / "other", folder, plan, adapter=adapter, **training) == expected
    finally:
        torch.use_deterministic_algorithms(mode=False)


@pytest.mark.parametrize("adapter", ["LoRA", "None"])
@pytest.mark.parametrize(
    "plan",
    [
        pytest.param({"batching": "Padded", "attention": "SDPA"}, id="padded"),
        pytest.param({"batching": "Padded", "attention": "Eager"}, id="padded and eager"),
        pytest.param(
            {"batching": "Padded", "attention": "Eager", "checkpointedLayers": 2},
            id="padded, eager and recomputed",
        ),
        pytest.param({"maxTokensPerDevice": 24}, id="half the budget"),
    ],
)
def test_rows_attention_and_budget_change_rounding_only(folder, tmp_path, adapter, plan):
    expected = steps(tmp_path / "plain", folder, adapter=adapter)
    found = steps(tmp_path / "other", folder, plan, adapter=adapter)
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=2e-5)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("BFloat16", 2e-2), ("Float16", 2e-3)], ids=["bfloat16", "float16"]
)
def test_16_bit_arithmetic_stays_close_and_is_not_the_same(folder, tmp_path, dtype, tolerance):
    expected = steps(tmp_path / "plain", folder, adapter="None")
    found = steps(tmp_path / "other", folder, {"computeDtype": dtype}, adapter="None")
    assert found != expected
    assert [loss for loss, _ in found] == pytest.approx([x for x, _ in expected], rel=tolerance)


def test_a_loss_scaled_too_high_costs_updates_and_no_weights(folder, tmp_path):
    run = one_rank(
        tmp_path / "run",
        folder,
        CACHE,
        PLAN | {"computeDtype": "Float16", "totalSteps": 8},
        adapter={"type": "None"},
    )
    run.engine._scale.state[0] = 2.0**40
    losses = [loss for loss, _ in losses_and_norms(run)]
    assert run.engine._scale.state[0] < 2.0**40
    assert run.record.overflows > 0
    assert all(torch.tensor(losses).isfinite())
    assert all(one.isfinite().all() for one in run.engine.task.parameters())


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        pytest.param("gpt2", {"n_positions": 128}, id="gpt2"),
        pytest.param("mamba", {"state_size": 4}, id="mamba, with state along the row"),
        pytest.param("bloom", {}, id="bloom, with attention of its own"),
        pytest.param("gemma2", {"head_dim": 8, "query_pre_attn_scalar": 8}, id="gemma2"),
    ],
)
@pytest.mark.parametrize("adapter", ["LoRA", "None"])
def test_other_architectures_learn_in_the_rows_that_suit_them(tmp_path, family, changes, adapter):
    torch.manual_seed(11)
    config = AutoConfig.for_model(family, **(SHAPE | changes))
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    plan = {"totalSteps": 12, "learningRate": 0.02}
    losses = [x for x, _ in steps(tmp_path / "run", tmp_path / "model", plan, adapter=adapter)]
    assert losses[-1] < 0.98 * losses[0]


def test_packed_rows_are_not_given_up_where_they_were_asked_for(tmp_path):
    config = AutoConfig.for_model("mamba", **(SHAPE | {"state_size": 4}))
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    with pytest.raises(ConfigurationError, match="batching: samples of mamba"):
        steps(tmp_path / "run", tmp_path / "model", batching="Packed")


@pytest.mark.parametrize(
    ("strategy", "ranks"),
    [("SingleProcess", 1), ("DDP", 2), ("FSDP", 2)],
    ids=["one rank", "DDP", "FSDP"],
)
def test_a_scaled_run_that_is_killed_goes_on_with_the_same_factor(
    tmp_path, monkeypatch, strategy, ranks
):
    # So high that the first updates overflow; a resumed run that began with it anew would again.
    monkeypatch.setattr(loss_scale, "FIRST_SCALE", 2.0**22)
    plan = {"computeDtype": "Float16", "strategy": strategy, "rank": None}
    changes = {
        "adapter": {"type": "None"},
        "checkpoint": {"everySteps": 2, "everySeconds": 0},
        "training": {"maxSteps": 6},
    }
    found = []
    for name, die in (("whole", {}), ("killed", {0: 3})):
        ground = TrainingGround(tmp_path / name)
        config = ground.config(ranks=ranks, plan=plan | {"totalSteps": 6}, **changes)
        if die:
            ground.forked(config, die=dict.fromkeys(range(ranks), 3)).outcomes()
            config = ground.config(2, ranks=ranks, plan=plan | {"totalSteps": 6}, **changes)
        outcome = ground.forked(config).completed()
        found.append(ground.weights(outcome))
    assert found[0] == found[1]
    (moments,) = ground.file(outcome.result.uri, "").glob("optimizer-00000-of-*.safetensors")
    factor, updates = read_tensors(moments.read_bytes())["loss_scale"].tolist()
    assert factor < 2.0**22
    assert updates > 0
