"""Builds the engine of the resolved strategy, and refuses strategies that cannot act."""

from __future__ import annotations

import torch

from finetune_api.finetune_experiment import ExperimentSpec
from finetune_api.run_config import TrainingConfig
from finetune_api.strategy_settings import FSDP, Offload
from finetune_api.training_settings import AdapterType, Dtype, OptimizerName
from finetune_trainer.deepspeed_config import deepspeed_config
from finetune_trainer.distributed import World
from finetune_trainer.engine import BuildUpdate, Engine
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.problems.causal_lm import CausalLanguageModelling

STAGES = {"ZeRO2": 2, "ZeRO3": 3}
BLOCKWISE = (
    OptimizerName.ADAMW_8BIT,
    OptimizerName.PAGED_ADAMW_8BIT,
    OptimizerName.PAGED_ADAMW_32BIT,
)


def sharded(strategy: str) -> bool:
    """Tell whether a resolved strategy spreads the weights' state over ranks."""
    return strategy == "FSDP" or strategy in STAGES


def check_strategy(spec: ExperimentSpec, strategy: str, ranks: int, dtype: Dtype) -> None:
    """Raise ConfigurationError for what the resolved strategy cannot do."""
    if not sharded(strategy):
        return
    if spec.training.optimizer in BLOCKWISE:
        raise _refused(
            f"training.optimizer: {spec.training.optimizer.value} keeps its state in blocks that "
            f"{strategy} would cut; use AdamW, or strategy DDP"
        )
    if strategy in STAGES:
        deepspeed_config(spec, stage=STAGES[strategy], half=dtype is Dtype.BFLOAT16, pinned=False)
        if dtype is Dtype.FLOAT16:
            raise _refused(
                f"training.computeDtype: Float16 is not offered with {strategy}; use BFloat16"
            )
    group_size(spec, ranks)


def group_size(spec: ExperimentSpec, ranks: int) -> int:
    """Return the ranks that share one copy of the weights; they must divide all ranks."""
    asked = (spec.fsdp.shard_group_size if spec.fsdp else None) or ranks
    if ranks % asked:
        raise _refused(
            f"fsdp.shardGroupSize: {asked} does not divide {ranks} ranks; choose a divisor"
        )
    return asked


def engine_for(
    config: TrainingConfig,
    task: CausalLanguageModelling,
    update: BuildUpdate,
    world: World,
    dtype: torch.dtype,
) -> Engine:
    """Return the engine of `config.plan.strategy`; a collective call.

    Libraries of sharded strategies are imported only for them.
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
        return ShardedEngine(task, update, world, dtype, sharding)
    if strategy in STAGES:
        from finetune_trainer.engine_deepspeed import ZeroEngine  # noqa: PLC0415

        settings_json = deepspeed_config(
            spec,
            stage=STAGES[strategy],
            half=dtype is torch.bfloat16,
            pinned=world.device.type == "cuda",
        )
        return ZeroEngine(task, update, world, dtype, settings_json)
    return Engine(task, update, world, dtype, find_unused=spec.compute.find_unused_parameters)


def _refused(text: str) -> ConfigurationError:
    return ConfigurationError(f"spec.{text}", reason="InvalidSpec")
