"""The plan of a run, the same in every attempt: its settings, its samples, its sources."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune_trainer.augmentation import Augmentation, AugmentedSamples
from finetune_trainer.mixture import Mixture
from finetune_trainer.plan import Plan, PlanSettings

if TYPE_CHECKING:
    from finetune_api.finetune_experiment import ExperimentSpec
    from finetune_api.run_config import TrainingConfig
    from finetune_trainer.token_cache import TokenCache


def run_plan(
    config: TrainingConfig, train: TokenCache, costs: tuple[int, int], *, padded: bool
) -> tuple[Plan, TokenCache | AugmentedSamples]:
    """Return the plan and the samples it speaks of.

    `costs` are those of a token and of a squared segment length, by which micro-batches are dealt.
    """
    spec, resolved = config.spec, config.plan
    augmentation = augmentation_of(
        spec, resolved.seed, limit=resolved.max_length, mask_token=resolved.mask_token
    )
    settings = PlanSettings(
        seed=resolved.seed,
        samples=resolved.global_batch_size,
        tokens=resolved.global_batch_tokens or 0,
        max_steps=resolved.total_steps,
        drop_last=spec.training.drop_last_batch,
        averaging=spec.training.loss_averaging,
        budget=resolved.max_tokens_per_device,
        longest=resolved.max_length if augmentation.insert else 0,
        grain=config.grain,
        padded=padded,
        token_cost=costs[0],
        square_cost=costs[1],
        changes=changes(spec, augmentation, train.weights),
    )
    texts = AugmentedSamples(train, augmentation) if augmentation.acts else train
    mixture = Mixture(train.sources, train.weights) if train.weights else None
    return Plan(train.lengths, train.supervised, settings, texts.of, mixture), texts


def augmentation_of(
    spec: ExperimentSpec, seed: int, *, limit: int, mask_token: int | None
) -> Augmentation:
    """Return what the spec asks for; without it nothing acts."""
    asked = spec.augmentation
    if asked is None:
        return Augmentation(seed, limit)
    return Augmentation(
        seed,
        limit,
        skip=asked.skip_parent_probability,
        insert=asked.random_parent_probability,
        mask=asked.token_mask_probability,
        mask_token=mask_token or 0,
    )


def changes(
    spec: ExperimentSpec, augmentation: Augmentation, weights: tuple[float, ...]
) -> dict[str, object]:
    """Return what else decides about the samples of a step, for the identity of the plan."""
    noise = spec.augmentation.neftune_noise_alpha if spec.augmentation else 0.0
    return {**augmentation.identity(), "noise": noise, "weights": list(weights)}
