"""The loss's factor falls on overflow, grows when nothing overflows, and leaves gradients alone."""

from __future__ import annotations

import pytest
import torch

from finetune_trainer.loss_scale import FIRST_SCALE, STEADY_STEPS, LossScale

GOOD, BAD = torch.tensor(1.0), torch.tensor(torch.inf)


@pytest.fixture
def scale():
    return LossScale(torch.device("cpu"))


def test_scaling_and_unscaling_leave_the_gradient_as_it_is(scale):
    weight = torch.tensor([3.0], requires_grad=True)
    scale.scaled((weight * weight).sum()).backward()
    assert weight.grad.item() == 6.0 * FIRST_SCALE
    scale.unscale([weight.grad])
    assert weight.grad.item() == 6.0


def test_an_overflow_halves_the_factor_and_starts_counting_anew(scale):
    for norm in (GOOD, GOOD, BAD):
        scale.adapt(norm)
    assert scale.state.tolist() == [FIRST_SCALE / 2, 0.0]


def test_the_factor_doubles_after_enough_steps_without_overflow(scale):
    for _ in range(STEADY_STEPS):
        scale.adapt(GOOD)
    assert scale.state.tolist() == [FIRST_SCALE * 2, 0.0]


def test_what_is_saved_goes_on_where_it_was(scale):
    other = LossScale(torch.device("cpu"))
    for norm in (GOOD, BAD, GOOD):
        scale.adapt(norm)
    other.state.copy_(scale.state)
    scale.adapt(GOOD)
    other.adapt(GOOD)
    assert torch.equal(scale.state, other.state)


def test_small_gradients_survive_16_bits_only_with_the_factor(scale):
    def gradient(*, scaled):
        x = torch.tensor([1e-8], dtype=torch.float32)
        weight = torch.ones(1, requires_grad=True)
        loss = (weight.half() * 1.0).float() * x
        (scale.scaled(loss) if scaled else loss).sum().backward()
        if scaled:
            scale.unscale([weight.grad])
        return weight.grad.item()

    assert gradient(scaled=False) == 0.0
    assert gradient(scaled=True) == pytest.approx(1e-8, rel=1e-2)
