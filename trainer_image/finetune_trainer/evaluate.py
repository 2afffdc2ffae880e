"""Loss and perplexity of a split: sums over all its supervised rows, whatever the batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import distributed as dist

from finetune_trainer.data import micro_batch
from finetune_trainer.engine import Engine
from finetune_trainer.plan import deal, order, pack
from finetune_trainer.token_cache import TokenCache


@dataclass(frozen=True)
class Metrics:
    """Numbers of one evaluation by reported name, and the supervised rows behind them."""

    values: dict[str, float]
    rows: int


def validation_samples(cache: TokenCache, seed: int, most: int | None) -> list[int]:
    """Return the samples to evaluate: all, or the same seeded subset at every evaluation."""
    samples: list[int] = order(len(cache), seed, 0)[:most].tolist()
    return samples


def evaluate(
    engine: Engine,
    cache: TokenCache,
    samples: list[int],
    *,
    budget: int,
    turn: Callable[[], None],
) -> Metrics:
    """Return loss (nats per supervised token) and corpus perplexity over all ranks.

    `turn` is called before every micro-batch, equally often on every rank.
    """
    lengths, world = cache.lengths.tolist(), engine.world
    longest = max(lengths[i] for i in samples)
    bins = pack(samples, lengths, max(budget, longest), world.size)
    costs = [sum(lengths[i] for i in one) for one in bins]
    sums = torch.zeros(2, dtype=torch.float64, device=engine.device)
    engine.task.eval()
    for number in deal(costs, world.size)[world.rank]:
        turn()
        batch = micro_batch(cache, () if number is None else bins[number], 1.0)
        with torch.no_grad(), engine.precision():
            losses = engine.task.row_losses(batch.to(engine.device))
        sums += torch.stack((losses.double().sum(), losses.new_tensor(len(losses)).double()))
    engine.task.train()
    if world.size > 1:
        dist.all_reduce(sums)
    total, rows = sums.tolist()
    loss = total / max(1.0, rows)
    return Metrics({"loss": loss, "perplexity_corpus": _perplexity(loss)}, int(rows))


def _perplexity(loss: float) -> float:
    return math.exp(min(loss, 700.0))
