"""The engine of mode Evaluate: the start weights as they are, no optimizer, no gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import nn

from finetune_api.run_config import TrainingConfig
from finetune_trainer.assembled_model import held_base
from finetune_trainer.base_form import BaseForm, base_form, proven_form, run_type
from finetune_trainer.distributed import World
from finetune_trainer.engine import Engine
from finetune_trainer.engine_choice import engine_for
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.first_weights import FirstWeights
from finetune_trainer.guarded_update import GuardedUpdate
from finetune_trainer.lean_layers import lean
from finetune_trainer.problems.causal_lm import CausalLanguageModelling
from finetune_trainer.rank_folder import RankFolder
from finetune_trainer.strategy_checks import sharded
from finetune_trainer.vocabulary import new_rows


class FrozenEngine(Engine):
    """Every rank holds all weights; there is nothing to reduce."""

    def _wrap(self) -> nn.Module:
        return self.task


def frozen_engine(
    config: TrainingConfig, folder: RankFolder, world: World, beat: Callable[[], None]
) -> tuple[Engine, BaseForm]:
    """Return an engine for forwards alone and the form of its model; a collective call.

    Raises ConfigurationError for what this model or this device cannot do.
    """
    form = base_form(config, folder.model, world.device)
    base = held_base(config, form, folder, world)
    model = base.model
    _check_rows(model, folder)
    lean(model)
    model.requires_grad_(requires_grad=False)
    beat()
    task, dtype = CausalLanguageModelling(model, config.plan.seed), run_type(config, world.device)
    if sharded(config.plan.strategy):
        first = None if base.weights is None else FirstWeights(base.weights, model)
        engine = engine_for(config, task, _no_update, world, dtype, first)
    else:
        engine = FrozenEngine(task, _no_update, world, dtype)
    beat()
    return engine, proven_form(config, form, engine)


def _no_update(_: Any) -> GuardedUpdate:
    """Stand for the optimizer that is not built; nothing calls it, for nothing is trained."""
    return cast("GuardedUpdate", None)


def _check_rows(base: Any, folder: RankFolder) -> None:
    """Refuse tokens that the start weights have never learned."""
    rows = base.get_input_embeddings().weight.shape[0]
    unknown = [one.id for one in new_rows(folder.prepared) if one.id >= rows]
    if unknown:
        raise ConfigurationError(
            f"spec.tokenizer.additionalTokens: {len(unknown)} of them are unknown to the start "
            "weights, which are only evaluated; remove them",
            reason="DeadSetting",
        )
