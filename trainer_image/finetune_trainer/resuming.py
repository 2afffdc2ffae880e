"""Finds the checkpoint that a run goes on from, and loads it into any engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune_api.run_config import TrainingConfig
from finetune_api.run_outcome import CheckpointRef
from finetune_trainer.checkpoint import OPTIMIZER, TRAINABLE, Checkpoints, RunIdentity
from finetune_trainer.engine import Engine
from finetune_trainer.model_record import MODEL, ModelRecord
from finetune_trainer.store import open_store


def opened_checkpoints(
    config: TrainingConfig, plan_identity: str, engine: Engine
) -> Checkpoints | None:
    """Return the run's checkpoints on every rank that reads or writes them; a collective call.

    Replicated ranks leave the volume to rank 0.
    """
    world, checkpoints = engine.world, None
    identity = RunIdentity(
        uid=config.identity.uid,
        revision=config.prepared_revision,
        attempt=config.identity.attempt,
        plan=plan_identity,
    )
    if world.rank == 0:
        checkpoints = Checkpoints(open_store(config.location, config.prefix), identity)
    if not engine.sharded:
        return checkpoints
    run = world.tell("run", checkpoints.identity.run if checkpoints is not None else None)
    if checkpoints is None:
        checkpoints = Checkpoints(open_store(config.location, config.prefix), identity, run)
    return checkpoints


def take_up(
    engine: Engine,
    checkpoints: Checkpoints | None,
    known: Sequence[CheckpointRef],
    key: str,
    *,
    step: int | None = None,
    model: ModelRecord | None = None,
) -> tuple[CheckpointRef, dict[str, Any]] | None:
    """Load the newest whole checkpoint, or that of `step`; return it and its record on all ranks.

    A collective call, each with a `key` of its own; None when there is no such checkpoint. Raises
    ConfigurationError (WeightsMismatch) where it was trained on another base than `model` tells.
    """
    world, told = engine.world, None
    if world.rank == 0 and checkpoints is not None:
        found = checkpoints.newest(known, step)
        if found is not None:
            _refuse_another_base(checkpoints, found.path, model)
            told = {"ref": found.ref.model_dump(), "path": found.path} | found.state
    told = world.tell(key, told)
    if told is None:
        return None
    if checkpoints is None:
        engine.load((), ())
    else:
        path, digest = told["path"], told["ref"]["digest"]
        weights, moments = (
            checkpoints.pieces(path, kind, digest) for kind in (TRAINABLE, OPTIMIZER)
        )
        engine.load(weights, moments)
    return CheckpointRef(**told["ref"]), told["record"]


def _refuse_another_base(checkpoints: Checkpoints, path: str, model: ModelRecord | None) -> None:
    folder = checkpoints.store.child(path)
    if model is not None and folder.exists(MODEL):
        model.refuse_another(folder.read(MODEL))
