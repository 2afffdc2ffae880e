"""Noise on embeddings, drawn from counters, so that it is the same at every world size."""

from __future__ import annotations

import torch
from torch import Tensor

from finetune_trainer.data import MicroBatch
from finetune_trainer.plan import NOISE, mix


def noisy(embedded: Tensor, batch: MicroBatch, alpha: float, seed: int) -> Tensor:
    """Return float[B, T, H] with uniform noise of ± alpha / sqrt(length x H) added (NEFTune).

    The length is that of the token's own sample, not of the micro-batch or its padding (Jain et
    al. 2023, arXiv:2310.05914, scale by the length of one sequence). One draw per (step,
    micro-batch); nothing is read from the device.
    """
    generator = torch.Generator(embedded.device)
    generator.manual_seed(mix(seed, NOISE, batch.step, batch.number))
    drawn = torch.rand(
        embedded.shape, generator=generator, device=embedded.device, dtype=torch.float32
    )
    sizes = _lengths(batch).float() * embedded.shape[-1]
    noise = (2 * drawn - 1) * (alpha * sizes.rsqrt())[..., None]
    return embedded + noise.to(embedded.dtype)


def _lengths(batch: MicroBatch) -> Tensor:
    """Return the length of every token's sample, [1, T] for packed and [B, 1] for padded rows."""
    if batch.layout is None:
        return batch.lengths[:, None]
    count = batch.tokens.shape[1]
    return torch.repeat_interleave(batch.lengths, batch.lengths, output_size=count)[None]
