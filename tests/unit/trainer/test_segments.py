"""Attention of a packed row equals that of each of its segments alone."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from finetune_trainer.segments import Layout, UnservedAttention, segments


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def layout(*lengths: int) -> Layout:
    bounds = [0]
    for length in lengths:
        bounds.append(bounds[-1] + length)
    return Layout(tuple(bounds), torch.tensor(bounds, dtype=torch.int32), max(lengths))


@pytest.mark.parametrize("window", [None, 3], ids=["full", "sliding window"])
def test_each_segment_attends_as_it_would_alone(window):
    query, key, value = drawn(1, 4, 12, 8), drawn(1, 2, 12, 8), drawn(1, 2, 12, 8) + 1
    module = torch.nn.Module().eval()
    packed, _ = segments(
        module, query, key, value, None, layout=layout(5, 1, 6), sliding_window=window
    )
    for start, end in ((0, 5), (5, 6), (6, 12)):
        part = slice(start, end)
        length = end - start
        seen = torch.ones(length, length, dtype=torch.bool).tril()
        if window is not None:
            seen &= torch.ones(length, length, dtype=torch.bool).triu(1 - window)
        alone = F.scaled_dot_product_attention(
            query[:, :, part],
            key[:, :, part].repeat_interleave(2, 1),
            value[:, :, part].repeat_interleave(2, 1),
            attn_mask=seen,
        )
        torch.testing.assert_close(packed[:, part], alone.transpose(1, 2), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "asked", [{"softcap": 50.0}, {"s_aux": torch.zeros(4)}], ids=["soft-capping", "sinks"]
)
def test_what_segments_do_not_know_is_refused_and_not_left_out(asked):
    tensors = drawn(1, 4, 6, 8), drawn(1, 2, 6, 8), drawn(1, 2, 6, 8)
    with pytest.raises(UnservedAttention):
        segments(torch.nn.Module(), *tensors, None, layout=layout(6), **asked)


def test_gradients_of_a_packed_row_are_those_of_its_segments():
    tensors = [drawn(1, heads, 9, 8).requires_grad_() for heads in (4, 2, 2)]
    alone = [one.detach().clone().requires_grad_() for one in tensors]
    packed, _ = segments(torch.nn.Module(), *tensors, None, layout=layout(4, 5))
    packed.square().sum().backward()
    for part in (slice(0, 4), slice(4, 9)):
        cut = [one[:, :, part] for one in alone]
        one, _ = segments(torch.nn.Module(), *cut, None, layout=layout(cut[0].shape[2]))
        one.square().sum().backward()
    for ours, theirs in zip(tensors, alone, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
