"""Refuses in preparation what the resolved strategy could only fail at on the GPU."""

from __future__ import annotations

from finetune_api.finetune_experiment import ExperimentSpec
from finetune_api.model_settings import Dtype
from finetune_api.training_settings import OptimizerName
from finetune_trainer.deepspeed_config import deepspeed_config
from finetune_trainer.errors import ConfigurationError

STAGES = {"ZeRO2": 2, "ZeRO3": 3}
BLOCKWISE = (
    OptimizerName.ADAMW_8BIT,
    OptimizerName.PAGED_ADAMW_8BIT,
    OptimizerName.PAGED_ADAMW_32BIT,
)
ON_PARTITIONS = (OptimizerName.ADAMW, OptimizerName.ADAM, OptimizerName.SGD)
"""Optimizers whose state DeepSpeed spreads, in float32 and of the weights' shapes."""


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
        _check_updates(spec, strategy)
        deepspeed_config(spec, stage=STAGES[strategy], half=dtype is Dtype.BFLOAT16, pinned=False)
        if dtype is Dtype.FLOAT16:
            raise _refused(
                f"training.computeDtype: Float16 is not offered with {strategy}; use BFloat16"
            )
    group_size(spec, ranks)


def _check_updates(spec: ExperimentSpec, strategy: str) -> None:
    if spec.training.optimizer not in ON_PARTITIONS:
        raise _refused(
            f"training.optimizer: {spec.training.optimizer.value} is not offered with {strategy}; "
            "use AdamW, Adam or SGD, or another strategy"
        )


def group_size(spec: ExperimentSpec, ranks: int) -> int:
    """Return the ranks that share one copy of the weights; they must divide all ranks."""
    asked = (spec.fsdp.shard_group_size if spec.fsdp else None) or ranks
    if ranks % asked:
        raise _refused(
            f"fsdp.shardGroupSize: {asked} does not divide {ranks} ranks; choose a divisor"
        )
    return asked


def _refused(text: str) -> ConfigurationError:
    return ConfigurationError(f"spec.{text}", reason="InvalidSpec")
