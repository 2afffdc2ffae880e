"""Builds the engine of the resolved strategy."""

from __future__ import annotations

import torch

from finetune_api.model_settings import AdapterType
from finetune_api.run_config import TrainingConfig
from finetune_api.strategy_settings import FSDP, Offload
from finetune_trainer.deepspeed_config import deepspeed_config
from finetune_trainer.distributed import World
from finetune_trainer.engine import BuildUpdate, Engine, First
from finetune_trainer.problems.causal_lm import CausalLanguageModelling
from finetune_trainer.strategy_checks import STAGES, group_size


def engine_for(
    config: TrainingConfig,
    task: CausalLanguageModelling,
    update: BuildUpdate,
    world: World,
    dtype: torch.dtype,
    first: First | None = None,
) -> Engine:
    """Return the engine of `config.plan.strategy`; a collective call.

    `first` holds on rank 0 the values of a task that was built without. Libraries of sharded
    strategies are imported only for them.
    """
    spec, strategy = config.spec, config.plan.strategy
    if strategy == "FSDP":
        from finetune_trainer.engine_fsdp import ShardedEngine, Sharding  # noqa: PLC0415

        settings = spec.fsdp or FSDP()
        sharding = Sharding(
            group_size=group_size(spec, world.size),
            reshard=config.plan.reshard_after_forward,
            offload=settings.offload is Offload.CPU,
            # Whole gradients of adapters are small; those of a whole model are not.
            accumulate_whole=spec.adapter.type is not AdapterType.NONE,
        )
        return ShardedEngine(task, update, world, dtype, sharding, first)
    if strategy in STAGES:
        from finetune_trainer.engine_deepspeed import ZeroEngine  # noqa: PLC0415

        settings_json = deepspeed_config(
            spec,
            stage=STAGES[strategy],
            half=dtype is torch.bfloat16,
            pinned=world.device.type == "cuda",
        )
        return ZeroEngine(task, update, world, dtype, settings_json, first)
    return Engine(task, update, world, dtype, find_unused=spec.compute.find_unused_parameters)
