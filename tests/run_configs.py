"""Configs of training attempts, for tests that need no attempt."""

from __future__ import annotations

import json

from finetune_api.run_config import TrainingConfig
from training_ground import IDENTITY, PLAN, PREFIX


def run_config(*, plan=None, training=None, **model) -> TrainingConfig:
    """Return the config of one rank; `model` and `training` are fields of these blocks."""
    place = {"volumeClaim": {"claimName": "models", "path": "toy"}}
    value = {
        "identity": IDENTITY | {"attempt": 1},
        "spec": {
            "model": place | model,
            "dataset": {"name": "counting"},
            "training": training or {},
        },
        "dataset": {"name": "counting", "digest": "sha256:" + "a" * 64},
        "model": {"name": "toy"},
        "plan": PLAN | {"ranks": 1, "stepsPerEpoch": 1, "totalSteps": 1} | (plan or {}),
        "prepared_uri": "pvc://results/prepared",
        "prepared_digest": "sha256:" + "b" * 64,
        "location": {"volumeClaim": {"claimName": "results"}},
        "prefix": PREFIX,
        "ranks": 1,
        "grain": 1,
    }
    return TrainingConfig.model_validate_json(json.dumps(value))
