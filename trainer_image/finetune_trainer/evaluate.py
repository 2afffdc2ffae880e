"""Loss and its relatives over a split: sums over all supervised rows, whatever the batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist

from finetune_trainer.data import MicroBatch, micro_batch
from finetune_trainer.engine import Engine
from finetune_trainer.losses import ONE_EACH
from finetune_trainer.packing import deal, pack, pack_padded
from finetune_trainer.plan import order
from finetune_trainer.token_cache import TokenCache

STANDARD_NAMES = ("loss", "perplexity_corpus")
LARGEST_EXPONENT = 700.0
"""e to this is still a float64."""


@dataclass(frozen=True)
class Evaluation:
    """Numbers of one evaluation by reported name, and the supervised rows behind them."""

    values: dict[str, float]
    rows: int


def validation_samples(cache: TokenCache, seed: int, most: int | None) -> list[int]:
    """Return the samples to evaluate: all, or the same seeded subset at every evaluation."""
    samples: list[int] = order(len(cache), seed, 0)[:most].tolist()
    return samples


def evaluate(  # noqa: PLR0913 - what is evaluated, and how
    engine: Engine,
    cache: TokenCache,
    samples: Sequence[int],
    *,
    budget: int,
    turn: Callable[[], None],
    names: Sequence[str] = STANDARD_NAMES,
    padded: bool = False,
) -> Evaluation:
    """Return the metrics `names` of the samples over all ranks: rank 0's numbers on every rank.

    Sums are taken in float64 and added over the ranks once, at the end; neither the budget nor
    the number of ranks changes a value. `turn` is called before every micro-batch, equally often
    on every rank. Models that cannot take packed rows get `padded` ones.
    """
    lengths, world = cache.lengths.tolist(), engine.world
    longest = max(lengths[i] for i in samples)
    bins = (pack_padded if padded else pack)(samples, lengths, max(budget, longest), world.size)
    costs = [sum(lengths[i] for i in one) for one in bins]
    sums = torch.zeros(5, dtype=torch.float64, device=engine.device)
    training = engine.task.training
    engine.task.eval()
    for number in deal(costs, world.size)[world.rank]:
        turn()
        chosen = () if number is None else bins[number]
        sums += _sums(engine, cache, chosen, micro_batch(cache, chosen, ONE_EACH, padded=padded))
    engine.task.train(training)
    if world.size > 1:
        dist.all_reduce(sums)
        # What is decided by these numbers must be decided alike: rank 0's count, to the last bit.
        dist.broadcast(sums, 0)
    totals = sums.tolist()
    found = metrics(*totals)
    return Evaluation({name: found[name] for name in names}, int(totals[1]))


def metrics(
    loss: float, rows: float, hits: float, spread: float, samples: float
) -> dict[str, float]:
    """Return all metrics by reported name, from sums over a split.

    `loss` in nats over `rows` supervised tokens, of which `hits` were the likeliest; `spread` is
    the sum of exp(mean loss) over `samples`. The corpus perplexity is exp(mean loss of all rows),
    not the mean of anything (transformers#39241).
    """
    mean = loss / max(1.0, rows)
    return {
        "loss": mean,
        "perplexity_corpus": math.exp(min(mean, LARGEST_EXPONENT)),
        "perplexity_sample_mean": spread / max(1.0, samples),
        "token_accuracy": hits / max(1.0, rows),
    }


def _sums(engine: Engine, cache: TokenCache, samples: Sequence[int], batch: MicroBatch) -> Tensor:
    """Return float64[5] of one micro-batch: the arguments of `metrics`."""
    moved = batch.to(engine.device)
    losses, hits = engine.forward(lambda: engine.task.row_scores(moved))
    losses = losses.double()
    counts = torch.tensor(
        [int(cache.supervised[i]) for i in samples], dtype=torch.int64, device=engine.device
    )
    owners = torch.repeat_interleave(
        torch.arange(len(samples), device=engine.device), counts, output_size=len(losses)
    )
    means = losses.new_zeros(len(samples)).index_add_(0, owners, losses) / counts.clamp(min=1)
    spread = means.clamp(max=LARGEST_EXPONENT).exp() * (counts > 0)
    sizes = losses.new_tensor([len(losses), int((counts > 0).sum())])
    return torch.stack((losses.sum(), sizes[0], hits.double().sum(), spread.sum(), sizes[1]))
