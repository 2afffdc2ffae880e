"""Runs whose samples change from epoch to epoch: at any number of ranks, and after a kill."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load

import finetune_trainer.run  # noqa: F401 - loaded once, then inherited by every forked rank
import training_ground
from finetune_trainer.store import write_manifest
from toy_llama import token_cache
from training_ground import TrainingGround

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

SAMPLES, EXCHANGES, LENGTH = 20, 3, 6
QUIET = {
    "evaluation": {"atStart": False, "generateSamples": 0, "everyEpochs": 0.0},
    "checkpoint": {"everySteps": 1, "keepLast": 9},
}
STEPS = {"totalSteps": 6, "stepsPerEpoch": 3, "maskToken": 2}
ALL = {
    "skipParentProbability": 0.4,
    "randomParentProbability": 0.4,
    "tokenMaskProbability": 0.2,
    "neftuneNoiseAlpha": 5.0,
}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def conversations(store, **_):
    """Write a preparation of conversations that count; every exchange is a question and answer."""
    rng = np.random.default_rng(5)
    span = EXCHANGES * LENGTH
    starts = rng.integers(0, 40, SAMPLES)
    tokens = (2 + (starts[:, None] + np.arange(span)) % 59).astype(np.uint32)
    flags = np.tile(np.array([0, 2, 0, 3, 3, 1], np.uint8), SAMPLES * EXCHANGES)
    turns = [(at, 1 + at % LENGTH // 2) for at in range(SAMPLES * span) if at % LENGTH in (0, 2)]
    files = {
        "tokens": tokens.ravel(),
        "flags": flags,
        "offsets": np.arange(SAMPLES + 1, dtype=np.int64) * span,
        "rows": np.arange(SAMPLES, dtype=np.uint32),
        "turns": np.array(turns, np.int64),
        "groups": np.arange(SAMPLES, dtype=np.uint32),
        "sources": (np.arange(SAMPLES) % 2).astype(np.uint8),
    }
    entries = [store.write("truncation.json", b"{}"), store.write("prompts.json", b"{}")]
    entries += [
        store.write(f"tokens/train/{name}.bin", values.tobytes()) for name, values in files.items()
    ]
    entries.append(store.write("tokens/train/sources.json", json.dumps(WEIGHTS).encode()))
    held = token_cache(4, seed=4)
    entries += [
        store.write(f"tokens/validation/{name}.bin", getattr(held, name).tobytes())
        for name in ("tokens", "flags", "offsets", "rows")
    ]
    return write_manifest(store, "prepared/v1", entries)


WEIGHTS = {"weights": [3.0, 1.0]}


@pytest.fixture
def grounds(tmp_path, monkeypatch):
    """Return a function that gives a new ground on these conversations."""
    monkeypatch.setattr(training_ground, "write_preparation", conversations)
    return lambda name: TrainingGround(tmp_path / name, train=SAMPLES)


def config(ground, attempt=1, *, ranks=1, augmentation=None, training=None, **plan):
    spec = QUIET | ({"augmentation": augmentation} if augmentation else {})
    if training:
        spec = spec | {"training": training}
    made = ground.config(attempt, ranks=ranks, plan=STEPS | plan, **spec)
    return made | {"grain": 1}


def weights(ground, made):
    return load(ground.weights(ground.forked(made).completed()))


def apart(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_every_augmentation_changes_where_the_weights_go(grounds):
    found = [weights(ground := grounds("plain"), config(ground))]
    for field, value in ALL.items():
        ground = grounds(field)
        found.append(weights(ground, config(ground, augmentation={field: value})))
    for place, one in enumerate(found):
        for other in found[place + 1 :]:
            assert apart(one, other) > 1e-4


def test_steps_of_tokens_and_averaging_by_samples_change_where_the_weights_go(grounds):
    ground = grounds("plain")
    plain = weights(ground, config(ground, augmentation={"skipParentProbability": 0.4}))
    for name, changes in {
        "tokens": {"globalBatchSize": 0, "globalBatchTokens": 60},
        "samples": {"training": {"lossAveraging": "Samples"}},
    }.items():
        ground = grounds(name)
        augmentation = {"skipParentProbability": 0.4}
        other = weights(ground, config(ground, augmentation=augmentation, **changes))
        assert apart(plain, other) > 1e-5


def test_one_and_three_ranks_train_the_same_weights_on_changing_samples(grounds):
    found = []
    for ranks in (1, 3):
        ground = grounds(str(ranks))
        plan = {"globalBatchSize": 0, "globalBatchTokens": 80, "maxTokensPerDevice": 30}
        found.append(weights(ground, config(ground, ranks=ranks, augmentation=ALL, **plan)))
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("step", [1, 4], ids="killed after step {}".format)
def test_a_killed_run_on_changing_samples_resumes_to_the_same_weights(grounds, step):
    ground = grounds("undisturbed")
    undisturbed = ground.weights(ground.forked(config(ground, augmentation=ALL)).completed())
    ground = grounds("killed")
    first = ground.forked(config(ground, augmentation=ALL), die={0: step})
    assert first.outcomes() == [None]
    second = ground.forked(config(ground, 2, augmentation=ALL)).completed()
    assert ground.weights(second) == undisturbed
