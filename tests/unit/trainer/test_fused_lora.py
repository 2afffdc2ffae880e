"""The fused product is PEFT's forward, with its gradients, whatever the base is held in."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from finetune_trainer.counter_dropout import DRAWS, CounterDropout, count_dropout, mask_like
from finetune_trainer.fused_lora import FusedLoraProduct, Product, fuse


class Pair(nn.Module):
    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.first = nn.Linear(6, 5, bias=bias)
        self.second = nn.Linear(6, 5, bias=bias)
        self.last = nn.Linear(5, 4, bias=bias)

    def forward(self, x):
        return self.last(self.first(x) * self.second(x))


def adapted(*, bias: bool = True, fused: bool = True, **settings):
    torch.manual_seed(3)
    config = LoraConfig(r=3, lora_alpha=5, target_modules=["first", "second", "last"], **settings)
    model = get_peft_model(Pair(bias=bias), config).double()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    if fused:
        assert fuse(model) == 3
    else:
        count_dropout(model)
    return model


def outcome(model, x):
    DRAWS.set(7, 2, 1)
    x = x.clone().requires_grad_()
    y = model(x)
    y.square().sum().backward()
    return {"y": y, "x": x.grad} | {
        name: one.grad for name, one in model.named_parameters() if one.requires_grad
    }


@pytest.mark.parametrize("shape", [(7, 6), (1, 7, 6)], ids=["rows", "batch of rows"])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("rslora", [False, True], ids=["alpha / r", "alpha / sqrt r"])
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
def test_forward_and_gradients_equal_those_of_peft(shape, dropout, rslora, bias):
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    settings = {"lora_dropout": dropout, "use_rslora": rslora}
    ours = outcome(adapted(bias=bias, **settings), x)
    theirs = outcome(adapted(bias=bias, fused=False, **settings), x)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_product_passes_a_gradient_check(share):
    x, down, up, weight = (
        torch.randn(shape, dtype=torch.float64, requires_grad=index < 3)
        for index, shape in enumerate([(5, 6), (2, 6), (4, 2), (4, 6)])
    )
    bias = torch.randn(4, dtype=torch.float64)
    how = Product(scale=0.7, dtype=torch.float64, share=share, stream=11)
    assert torch.autograd.gradcheck(
        lambda *args: FusedLoraProduct.apply(*args, weight, bias, how), (x, down, up)
    )


def test_masks_change_with_step_micro_batch_and_layer_and_with_nothing_else():
    model = adapted(lora_dropout=0.5)
    x = torch.ones(4, 6, dtype=torch.float64)
    answers = []
    for key in [(7, 2, 1), (7, 2, 2), (7, 3, 1), (8, 2, 1), (7, 2, 1)]:
        DRAWS.set(*key)
        torch.manual_seed(len(answers))
        answers.append(model(x).detach())
    assert torch.equal(answers[0], answers[4])
    assert not any(torch.equal(answers[0], other) for other in answers[1:4])
    dropouts = [one for one in model.modules() if isinstance(one, CounterDropout)]
    assert [one.linear for one in dropouts] == [0, 1, 2]
    assert not torch.equal(dropouts[0](x), dropouts[1](x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_mask_zeroes_the_share_that_was_asked_for_everywhere(share, dtype):
    mask = mask_like(torch.empty(301, 401, dtype=dtype), share, 5)
    assert mask.dtype is dtype
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    zeroes = 1 - mask.float()
    assert zeroes.mean() == pytest.approx(share, abs=0.01)
    assert zeroes.mean(0).std() == pytest.approx((share * (1 - share) / 301) ** 0.5, rel=0.2)
    assert all(zeroes.flatten()[n::4].mean() == pytest.approx(share, abs=0.01) for n in range(4))


def test_dropout_keeps_the_expectation_and_evaluation_drops_nothing():
    model = adapted(lora_dropout=0.25)
    dropout = next(one for one in model.modules() if isinstance(one, CounterDropout))
    ones = torch.ones(200, 200)
    dropped = dropout(ones)
    assert dropped.mean() == pytest.approx(1, abs=0.02)
    assert sorted(dropped.unique().tolist()) == pytest.approx([0, 1 / 0.75])
    assert dropout.eval()(ones) is ones


def test_names_types_and_parameters_stay_those_of_peft():
    ours, theirs = adapted(), adapted(fused=False)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for one, other in zip(ours.modules(), theirs.modules(), strict=True):
        assert isinstance(one, type(other))


def test_saved_are_the_input_once_and_the_low_rank_products():
    model = adapted(bias=False)
    parameters = {one.data_ptr() for one in model.parameters()}
    saved = {}

    def note(tensor):
        if tensor.data_ptr() not in parameters:
            saved[tensor.data_ptr()] = tensor.numel()
        return tensor

    x = torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        y = model(x)
    # x, three products of rank 3, the two factors of the product, and the input of the last layer.
    assert sorted(saved.values()) == sorted([42, 21, 21, 21, 35, 35, 35])
    y.sum().backward()


def test_an_input_that_needs_no_gradient_gets_none():
    model = adapted()
    x = torch.randn(3, 6, dtype=torch.float64)
    model(x).sum().backward()
    assert x.grad is None
    assert all(one.grad is not None for name, one in model.named_parameters() if "lora_" in name)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"use_dora": True}, id="DoRA"),
        pytest.param({"lora_bias": True}, id="bias of the update"),
    ],
)
def test_layers_with_more_than_a_plain_update_keep_the_forward_of_peft(settings):
    config = LoraConfig(r=3, target_modules=["first", "last"], **settings)
    model = get_peft_model(Pair(bias=True), config)
    assert fuse(model) == 0


def test_without_adapters_and_after_a_merge_a_fused_model_computes_what_peft_does():
    ours, theirs = adapted(), adapted(fused=False)
    x = torch.randn(3, 6, dtype=torch.float64)
    with ours.disable_adapter(), theirs.disable_adapter():
        assert torch.equal(ours(x), theirs(x))
    before = ours(x)
    ours.merge_adapter()
    assert torch.equal(ours.base_model.model.first(x), ours.base_model.model.first.base_layer(x))
    torch.testing.assert_close(ours(x), before, rtol=1e-12, atol=1e-12)


def test_masters_stay_32_bit_and_small_updates_survive_under_16_bit_arithmetic():
    model = adapted().float()
    x = torch.randn(4, 6)
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)
    assert y.dtype is torch.bfloat16
    y.float().sum().backward()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            assert parameter.dtype is torch.float32
            assert parameter.grad.dtype is torch.float32
            with torch.no_grad():
                before = parameter.clone()
                parameter.add_(1e-5)
                assert not torch.equal(before, parameter)
