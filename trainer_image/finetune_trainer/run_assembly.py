"""Builds a rank's run from its configuration: data, model, engine, plan, resumed state."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from finetune_api.evaluation_settings import CheckpointPolicy
from finetune_api.run_config import TrainingConfig
from finetune_trainer.activation_memory import (
    MemoryPeak,
    longest_samples,
    probed_memory,
    show_peak,
)
from finetune_trainer.adapter import adapter_config
from finetune_trainer.agreement import Agreement
from finetune_trainer.assembled_model import assembled_engine
from finetune_trainer.base_model import model_place
from finetune_trainer.cadence import Cadence
from finetune_trainer.checkpoint import ADAPTER, NEW_TOKENS
from finetune_trainer.data import micro_batch
from finetune_trainer.device_memory import device_estimate
from finetune_trainer.distributed import World
from finetune_trainer.engine import Engine
from finetune_trainer.loop import Run
from finetune_trainer.model_record import MODEL, ModelRecord, model_record
from finetune_trainer.objective import objective_of
from finetune_trainer.plan import Plan
from finetune_trainer.progress import Board
from finetune_trainer.rank_folder import RankFolder
from finetune_trainer.rate_schedule import Schedule
from finetune_trainer.resuming import opened_checkpoints, take_up
from finetune_trainer.run_plan import run_plan
from finetune_trainer.run_record import RunRecord
from finetune_trainer.saver import Saver
from finetune_trainer.saving import Saving
from finetune_trainer.step_flops import model_flops
from finetune_trainer.token_cache import TokenCache, open_cache
from finetune_trainer.watchdog import Heartbeat


def assembled_run(
    config: TrainingConfig,
    folder: RankFolder,
    world: World,
    heartbeat: Heartbeat,
    board: Board | None,
) -> Run:
    """Return a run that stands where its newest checkpoint left it; a collective call."""
    train = open_cache(folder.prepared / "tokens" / "train")
    engine, form, differing = assembled_engine(config, folder, world, heartbeat.beat)
    flops = model_flops(engine.task.model)
    costs = (flops.per_token, flops.per_square)
    plan, texts = run_plan(config, train, costs, padded=form.padded)
    if (peak := _probed(config, folder, engine, plan, train)) is not None:
        show_peak(peak, board)
    heartbeat.beat()
    state = _state(config, folder, engine, plan)
    state.record.differing = list(differing)
    heartbeat.beat()
    return Run(
        spec=config.spec,
        engine=engine,
        plan=plan,
        flops=flops,
        train=texts,
        validation=_validation(folder),
        schedule=_schedule(config, plan),
        cadence=_cadence(config, plan),
        record=state.record,
        agreement=Agreement(world),
        heartbeat=heartbeat,
        restore=state.restore,
        saving=state.saving,
        board=board,
        saver=state.saver,
    )


@dataclass(frozen=True)
class _State:
    """Where a run stands, and how it is kept."""

    record: RunRecord
    saver: Saver | None
    saving: Saving
    restore: Callable[[str, int | None], dict[str, Any] | None]


def _state(config: TrainingConfig, folder: RankFolder, engine: Engine, plan: Plan) -> _State:
    """Load the newest checkpoint into the engine; a collective call."""
    checkpoints = opened_checkpoints(config, plan.identity(config.prepared_digest), engine)
    model = None
    if engine.world.rank == 0:  # it alone writes, and for sharded strategies it alone has weights
        model = model_record(config, folder.model, engine.task.vocabulary)
    found = take_up(engine, checkpoints, config.known_checkpoints, "record", model=model)
    record = RunRecord() if found is None else RunRecord(**found[1])
    record.objective = objective_of(config.spec.evaluation, seen=config.plan.validation_seen)
    saver = None
    if checkpoints is not None and engine.world.rank == 0:
        saver = Saver(checkpoints, config.spec.checkpoint)
        if found is not None:
            saver.resumed(record, found[0])

    def restore(key: str, step: int | None) -> dict[str, Any] | None:
        again = take_up(engine, checkpoints, config.known_checkpoints, key, step=step)
        if again is not None and saver is not None:
            saver.went_back(again[0].step)
        return None if again is None else again[1]

    adapter = adapter_config(engine.task.model, model_place(config.spec.model))
    saving = Saving(engine, checkpoints, saver, _beside(folder, adapter, model))
    return _State(record, saver, saving, restore)


def _probed(
    config: TrainingConfig, folder: RankFolder, engine: Engine, plan: Plan, train: TokenCache
) -> MemoryPeak | None:
    if not config.spec.training.probe_memory:
        return None
    settings, estimate = plan.settings, device_estimate(config, folder.model, engine.device)
    chosen = longest_samples(train.lengths.tolist(), settings.budget, padded=settings.padded)
    batch = micro_batch(train, chosen, 1.0 / max(1, len(chosen)), padded=settings.padded)
    return probed_memory(engine, batch, estimate.allocated if estimate else None)


def _beside(
    folder: RankFolder, adapter: dict[str, Any] | None, model: ModelRecord | None
) -> dict[str, bytes]:
    """Return what lies beside a checkpoint's tensors: base, adapter settings and new tokens."""
    if model is None:
        return {}
    files = {MODEL: model.as_file()}
    if adapter is not None:
        files[ADAPTER] = json.dumps(adapter, indent=1).encode()
    tokens = folder.prepared / NEW_TOKENS
    return files | ({NEW_TOKENS: tokens.read_bytes()} if tokens.exists() else {})


def _validation(folder: RankFolder) -> TokenCache | None:
    path = folder.prepared / "tokens" / "validation"
    if not path.is_dir():
        return None
    cache = open_cache(path)
    return cache if len(cache) else None


def _schedule(config: TrainingConfig, plan: Plan) -> Schedule:
    training = config.spec.training
    return Schedule(
        peak=config.plan.learning_rate,
        total=plan.total_steps,
        warmup=config.plan.warmup_steps,
        shape=training.scheduler,
        floor=training.min_learning_rate_ratio,
        cycles=training.scheduler_cycles or Schedule.cycles,
        decay=training.decay_ratio or Schedule.decay,
    )


def _cadence(config: TrainingConfig, plan: Plan) -> Cadence:
    spec = config.spec
    return Cadence(
        epochs=lambda done: plan.epoch_after(done - 1),
        total_steps=plan.total_steps,
        evaluate_epochs=spec.evaluation.every_epochs,
        evaluate_steps=spec.evaluation.every_steps,
        save_steps=spec.checkpoint.every_steps,
        resumable=spec.checkpoint.policy is CheckpointPolicy.RESUMABLE,
    )
