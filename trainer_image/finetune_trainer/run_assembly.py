"""Builds a rank's run from its configuration: data, model, engine, plan, resumed state."""

from __future__ import annotations

from typing import Any

import torch

from finetune_api.run_config import TrainingConfig
from finetune_api.training_settings import CheckpointPolicy
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
from finetune_trainer.checkpoint import Checkpoints, Restored, RunIdentity, Snapshot
from finetune_trainer.data import micro_batch
from finetune_trainer.distributed import World
from finetune_trainer.engine import Engine
from finetune_trainer.loop import Run
from finetune_trainer.objective import objective_of
from finetune_trainer.pieces import whole
from finetune_trainer.plan import Plan, PlanSettings
from finetune_trainer.progress import Board
from finetune_trainer.rank_folder import RankFolder
from finetune_trainer.rate_schedule import Schedule
from finetune_trainer.run_record import RunRecord
from finetune_trainer.saver import Saver
from finetune_trainer.step_flops import ModelFlops, model_flops
from finetune_trainer.store import open_store
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
    engine, form = assembled_engine(config, folder, world, heartbeat.beat)
    flops = model_flops(engine.task.model)
    plan = run_plan(config, train, flops, padded=form.padded)
    if (peak := _probed(config, engine, plan, train)) is not None:
        show_peak(peak, board)
    heartbeat.beat()
    checkpoints, restored = _picked(config, plan, world)
    record = _resumed(engine, world, restored)
    record.objective = objective_of(config.spec.evaluation, seen=config.plan.validation_seen)
    heartbeat.beat()
    saver = None
    if checkpoints is not None:
        saver = Saver(checkpoints, config.spec.checkpoint)
        if restored is not None:
            saver.resumed(record, restored.ref)
    adapter = adapter_config(engine.task.model, model_place(config.spec.model))
    return Run(
        spec=config.spec,
        engine=engine,
        plan=plan,
        flops=flops,
        train=train,
        validation=_validation(folder),
        schedule=_schedule(config, plan),
        cadence=_cadence(config, plan),
        record=record,
        agreement=Agreement(world),
        heartbeat=heartbeat,
        restore=lambda key: _restored(engine, world, checkpoints, config, key),
        snapshot=lambda: _snapshot(engine, record, saver, adapter),
        board=board,
        saver=saver,
    )


def run_plan(config: TrainingConfig, train: TokenCache, flops: ModelFlops, *, padded: bool) -> Plan:
    """Return the plan; micro-batches are dealt by the operations that they need."""
    settings = PlanSettings(
        seed=config.plan.seed,
        samples=config.plan.global_batch_size,
        max_steps=config.plan.total_steps,
        budget=config.plan.max_tokens_per_device,
        grain=config.grain,
        padded=padded,
        token_cost=flops.per_token,
        square_cost=flops.per_square,
    )
    return Plan(train.lengths.tolist(), train.supervised.tolist(), settings)


def _probed(
    config: TrainingConfig, engine: Engine, plan: Plan, train: TokenCache
) -> MemoryPeak | None:
    if not config.spec.training.probe_memory:
        return None
    settings, memory = plan.settings, config.plan.memory
    chosen = longest_samples(train.lengths.tolist(), settings.budget, padded=settings.padded)
    batch = micro_batch(train, chosen, 1.0 / max(1, len(chosen)), padded=settings.padded)
    return probed_memory(engine, batch, sum(memory.terms.values()) if memory else None)


def _picked(
    config: TrainingConfig, plan: Plan, world: World
) -> tuple[Checkpoints | None, Restored | None]:
    """Let rank 0, which alone needs the volume, pick the newest verified checkpoint."""
    if world.rank:
        return None, None
    store = open_store(config.location, config.prefix)
    identity = RunIdentity(
        uid=config.identity.uid,
        revision=config.prepared_revision,
        attempt=config.identity.attempt,
        plan=plan.identity(config.prepared_digest),
    )
    checkpoints = Checkpoints(store, identity)
    return checkpoints, checkpoints.newest(config.known_checkpoints)


def _resumed(engine: Engine, world: World, restored: Restored | None) -> RunRecord:
    state = _taken_up(engine, world, restored, "record")
    return RunRecord() if state is None else RunRecord(**state)


def _taken_up(
    engine: Engine, world: World, restored: Restored | None, key: str
) -> dict[str, Any] | None:
    state: dict[str, Any] | None
    state = world.tell(key, None if restored is None else restored.state["record"])
    if state is None:
        return None
    weights, moments = ({}, {}) if restored is None else (restored.weights, restored.moments)
    engine.load(
        [whole(name, one) for name, one in weights.items()],
        [whole(name, one) for name, one in moments.items()],
    )
    return state


def _restored(
    engine: Engine,
    world: World,
    checkpoints: Checkpoints | None,
    config: TrainingConfig,
    key: str,
) -> dict[str, Any] | None:
    """Load the newest verified checkpoint again; return its record on all ranks."""
    found = None
    if checkpoints is not None:
        found = checkpoints.newest(config.known_checkpoints)
    return _taken_up(engine, world, found, key)


def _snapshot(
    engine: Engine, record: RunRecord, saver: Saver | None, adapter: dict[str, Any] | None
) -> Snapshot:
    known = saver.known() if saver is not None else {}
    record.checkpoints = [ref.model_dump() for ref in known.values()]
    return Snapshot(
        step=record.step,
        weights={piece.name: _copied(piece.tensor) for piece in engine.weights()},
        moments={piece.name: _copied(piece.tensor) for piece in engine.moments()},
        state={
            "step": record.step,
            "world": engine.world.size,
            "versions": {"torch": torch.__version__},
            "record": record.as_json(),
        },
        adapter=adapter,
    )


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True)


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
