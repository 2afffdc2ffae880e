"""One rank assembled in this process from a model folder and samples, as an attempt does it.

Oracles, counters and benchmarks go through the run's configuration, so that they measure what a
user's experiment does and not a loop of their own.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from finetune_api import names
from finetune_api.run_config import TrainingConfig
from finetune_trainer.distributed import World
from finetune_trainer.loop import Loop, Run
from finetune_trainer.progress import Board
from finetune_trainer.rank_folder import RankFolder
from finetune_trainer.run_assembly import assembled_run
from finetune_trainer.token_cache import TokenCache
from finetune_trainer.watchdog import Heartbeat
from training_ground import IDENTITY, PLAN, PREFIX

FULL = {"adapter": {"type": "None"}}
"""The part of a spec that asks for full fine-tuning."""


def one_rank(
    folder: Path, model: Path, train: TokenCache, plan: dict[str, Any], /, **spec: Any
) -> Run:
    """Return the run of one process in float32: all losses noted, saved at the end only.

    `plan` changes resolved choices, `spec` whole blocks of the experiment's spec. A run shows its
    progress as every run does, in files below `folder`.
    """
    torch.set_num_threads(1)
    for name in ("tokens", "flags", "offsets", "rows"):
        path = folder / "prepared" / "tokens" / "train" / f"{name}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(getattr(train, name).tobytes())
    ranks = RankFolder(folder)
    ranks.set_inputs(model=model, prepared=folder / "prepared")
    heartbeat = Heartbeat(ranks.heartbeat(0))
    config = TrainingConfig.model_validate_json(json.dumps(_config(plan, spec)))
    board = Board(folder, config.identity.run, {"experiment": "toy", "attempt": "1"})
    with patch.dict(os.environ, {names.CLAIMS_DIR_ENV: str(folder / "claims")}):
        return assembled_run(config, ranks, World(), heartbeat, board)


def losses_and_norms(run: Run) -> list[tuple[float, float]]:
    """Take all steps of a run; return loss and gradient norm of each."""
    loop = Loop(run)
    loop.take_steps()
    loop.finish_saving()
    return [(loss, norm) for _, loss, _, norm in run.record.history]


def _config(plan: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    full = spec.get("adapter", {}).get("type") == "None"
    blocks = {
        "model": {"volumeClaim": {"claimName": "models", "path": "toy"}},
        "dataset": {"name": "counting"},
        "storage": {"volumeClaim": {"claimName": "results"}},
        "evaluation": {"generateSamples": 0, "everyEpochs": 0.0},
        "checkpoint": {"policy": "None", "result": "Last"},
        "tracking": {"logEverySteps": 1},
    }
    return {
        "identity": IDENTITY | {"attempt": 1},
        "spec": blocks | spec,
        "dataset": {"name": "counting", "digest": "sha256:" + "a" * 64},
        "model": {"name": "toy"},
        "plan": PLAN | {"ranks": 1, "warmupSteps": 0} | ({"rank": None} if full else {}) | plan,
        "prepared_uri": "pvc://results/prepared",
        "prepared_digest": "sha256:" + "b" * 64,
        "location": {"volumeClaim": {"claimName": "results"}},
        "prefix": PREFIX,
        "ranks": 1,
        "grain": 1,
    }
