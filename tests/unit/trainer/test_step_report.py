"""What is told of a step: operations by formula, shares by the plan, seconds by phase."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import transformers
from torch import nn

from finetune_trainer.plan import Plan, PlanSettings
from finetune_trainer.step_clock import PHASES, StepClock
from finetune_trainer.step_flops import ModelFlops, model_flops, peak_flops
from finetune_trainer.step_report import step_facts

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
V, H, L, F = 50, 16, 2, 24


def tiny(*, tied: bool = False):
    config = transformers.LlamaConfig(
        vocab_size=V,
        hidden_size=H,
        num_hidden_layers=L,
        intermediate_size=F,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    return transformers.LlamaForCausalLM(config)


LAYER = H * H + 2 * H * H // 2 + H * H + 3 * H * F


@pytest.mark.parametrize("tied", [False, True], ids=["own head", "tied head"])
def test_full_fine_tuning_needs_6_operations_per_weight_and_row(tied):
    found = model_flops(tiny(tied=tied))
    assert found == ModelFlops(6 * L * LAYER, 6 * V * H, 6 * L * H)


def test_frozen_weights_need_4_operations_and_adapters_6():
    import peft

    model = peft.get_peft_model(
        tiny(), peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    )
    found = model_flops(model)
    assert found == ModelFlops(4 * L * LAYER + 6 * L * 2 * (H + H), 4 * V * H, 6 * L * H)


def test_a_packed_weight_counts_as_it_is_multiplied():
    model = tiny()
    packed = nn.Parameter(torch.zeros(H * H // 2, 1, dtype=torch.uint8), requires_grad=False)
    packed.quant_state = SimpleNamespace(shape=(H, H))
    model.model.layers[0].self_attn.q_proj.weight = packed
    assert model_flops(model).per_token == 6 * L * LAYER - 2 * H * H


def test_the_operations_of_a_step_are_near_what_the_library_counts():
    from torch.utils.flop_counter import FlopCounterMode

    model = tiny()
    model.set_attn_implementation("eager")
    tokens = torch.arange(12)[None]
    with FlopCounterMode(display=False) as counter:
        model(input_ids=tokens, labels=tokens).loss.backward()
    # The library's eager attention does the upper triangle too; its first layer's input needs no
    # gradient.
    ours = model_flops(model).of(12, 12, 2 * 12 * 12)
    assert counter.get_total_flops() == pytest.approx(ours, rel=0.03)


def plan(**settings):
    lengths = [4, 8, 4, 8]
    return Plan(lengths, lengths, PlanSettings(seed=1, samples=4, **settings))


def test_the_facts_of_a_step_come_from_the_plan():
    given = plan(budget=16)
    facts = step_facts(given.step(0), given, ModelFlops(10, 100, 1), ranks=1)
    assert (facts.done, facts.tokens, facts.samples, facts.epoch) == (1, 24, 4, 1.0)
    assert facts.flops == 10 * 24 + 100 * 24 + (16 + 64) * 2
    assert (facts.fill, facts.imbalance, facts.padding) == (24 / 32, 0.0, 0.0)


def test_padding_is_the_share_that_rows_are_filled_up_with():
    given = plan(budget=32, padded=True)
    step = given.step(0)
    facts = step_facts(step, given, ModelFlops(1, 0, 0), ranks=1)
    lengths = [4, 8, 4, 8]
    cells = sum(len(one) * max(lengths[i] for i in one) for one in step.micro_batches if one)
    assert facts.padding == pytest.approx(1 - 24 / cells)


def test_a_rank_that_has_more_to_do_shows_as_imbalance():
    given = Plan([8, 4], [8, 4], PlanSettings(seed=1, samples=2, budget=8, grain=2))
    facts = step_facts(given.step(0), given, ModelFlops(1, 0, 0), ranks=2)
    assert facts.imbalance == pytest.approx(8 / 6 - 1)


def test_the_clock_gives_every_phase_and_leaves_out_what_is_no_step():
    clock = StepClock(torch.device("cpu"))
    for phase in (*PHASES[:3], *PHASES[1:]):
        clock.mark(phase)
    clock.close()
    clock.begin()
    (seconds,) = clock.ready()
    assert tuple(seconds) == PHASES
    assert min(seconds.values()) >= 0
    assert list(clock.ready()) == []


def test_no_peak_is_made_up_for_a_device_without_a_datasheet():
    assert peak_flops(torch.device("cpu")) is None
