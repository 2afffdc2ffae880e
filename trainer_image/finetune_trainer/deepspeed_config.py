"""DeepSpeed's configuration of a run: what the trainer owns, and what a spec adds to it."""

from __future__ import annotations

import json
from typing import Any

from finetune_api.finetune_experiment import ExperimentSpec
from finetune_api.strategy_settings import DeepSpeed, Offload
from finetune_trainer.errors import ConfigurationError

OWNED = {
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "managed_gradient_accumulation",
    "optimizer",
    "scheduler",
    "bf16",
    "fp16",
    "amp",
    "torch_autocast",
    "data_types",
    "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer",
}
FIELDS = {
    "allgather_bucket_size": "allgather_bucket_size",
    "reduce_bucket_size": "reduce_bucket_size",
    "stage3_prefetch_bucket_size": "stage3_prefetch_bucket_size",
    "stage3_param_persistence_threshold": "stage3_param_persistence_threshold",
    "stage3_max_live_parameters": "stage3_max_live_parameters",
    "stage3_max_reuse_distance": "stage3_max_reuse_distance",
    "overlap_communication": "overlap_comm",
    "contiguous_gradients": "contiguous_gradients",
}
"""Fields of the spec by the library's name for them; absent ones are the library's defaults."""


def deepspeed_config(
    spec: ExperimentSpec, *, stage: int, half: bool, pinned: bool
) -> dict[str, Any]:
    """Return the configuration for `deepspeed.initialize`.

    `half` computes in bfloat16, else float32; `pinned` tells whether offloaded memory is. Raises
    ConfigurationError (DeadSetting) for further entries that the trainer owns.
    """
    settings = spec.deepspeed or DeepSpeed()
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "zero_allow_untested_optimizer": True,
        # Its own CPU optimizer would be compiled at start; torch's fused one needs no compiler.
        "zero_force_ds_cpu_optimizer": False,
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": _zero(settings, stage, pinned=pinned),
    }
    if half:
        # Without the check, ZeRO-2 would apply an update that is not finite.
        config["bf16"] = {"enabled": True, "check_grad_overflow": True}
    for name, text in (settings.config or {}).items():
        _add(config, name, text)
    return config


def _zero(settings: DeepSpeed, stage: int, *, pinned: bool) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": stage}
    for field, name in FIELDS.items():
        if (value := getattr(settings, field)) is not None:
            zero[name] = value
    place = {"device": "cpu", "pin_memory": pinned}
    if settings.offload_optimizer is Offload.CPU:
        zero["offload_optimizer"] = place
    if settings.offload_parameters is Offload.CPU:
        zero["offload_param"] = place
    return zero


def _add(config: dict[str, Any], name: str, text: str) -> None:
    """Add a further entry; entries of zero_optimization one by one."""
    field = f"spec.deepspeed.config.{name}"
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigurationError(
            f"{field}: is no JSON ({error}); write the value as JSON", reason="InvalidSpec"
        ) from error
    owned, target, added = OWNED, config, {name: value}
    if name == "zero_optimization" and isinstance(value, dict):
        owned = {"stage", "offload_optimizer", "offload_param", *FIELDS.values()}
        target, added = config[name], value
    taken = sorted(owned & added.keys())
    if taken or (name == "zero_optimization" and not isinstance(value, dict)):
        raise ConfigurationError(
            f"{field}: {', '.join(taken) or name} belongs to the trainer; remove it and use the "
            "field of the spec",
            reason="DeadSetting",
        )
    target.update(added)
