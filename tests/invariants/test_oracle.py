"""Loss of every step, gradient norm and final weights equal those of other trainers."""

from __future__ import annotations

import pytest
import torch
from transformers import Trainer

from one_rank import losses_and_norms, one_rank
from peer_trainers import peer_model, rows_of, trained
from tiny_models import FAMILIES, PADDED, tiny_model
from toy_llama import token_cache

STEPS, BATCH, RATE = 5, 4, 2e-3
EPSILON = 1e-5
"""Adam's, in both trainers: with 1e-8 a gradient of 1e-9, all rounding, moves a weight by the
rate."""


def both(folder, family, adapter, trainer):
    """Return our steps, the peer's steps and pairs of weights after the last."""
    model = tiny_model(folder / "model", family)
    plan = {
        "globalBatchSize": BATCH,
        "totalSteps": STEPS,
        "stepsPerEpoch": STEPS,
        "epochs": 1.0,
        "maxTokensPerDevice": 40,
        "learningRate": RATE,
    }
    cache = token_cache(STEPS * BATCH)
    run = one_rank(
        folder / "run",
        model,
        cache,
        plan | PADDED.get(family, {}),
        adapter={"type": adapter},
        training={"scheduler": "Linear", "adamEpsilon": EPSILON},
    )
    ours = run.engine.task.model
    attention = "eager" if family in PADDED else "sdpa"
    theirs = peer_model(model, ours, attention=attention)
    found = losses_and_norms(run)
    expected = trained(
        trainer,
        theirs,
        list(rows_of(cache, run.plan)),
        output_dir=str(folder / "out"),
        per_device_train_batch_size=BATCH,
        max_steps=STEPS,
        learning_rate=RATE,
        lr_scheduler_type="linear",
        adam_epsilon=EPSILON,
    )
    named = dict(theirs.named_parameters())
    return found, expected, [(name, one, named[name]) for name, one in ours.named_parameters()]


def assert_alike(found, expected, weights):
    assert [loss for loss, _ in found] == pytest.approx([loss for loss, _ in expected], abs=1e-5)
    assert [norm for _, norm in found] == pytest.approx([norm for _, norm in expected], rel=1e-4)
    assert found[-1][0] != pytest.approx(found[0][0], abs=1e-2)
    for name, ours, theirs in weights:
        assert torch.allclose(ours, theirs, rtol=0, atol=RATE / 100), name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("adapter", ["None", "LoRA"], ids=["full", "LoRA"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_is_that_of_transformers_trainer(tmp_path, family, adapter):
    assert_alike(*both(tmp_path, family, adapter, Trainer))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("family", "adapter"), [*((family, "LoRA") for family in FAMILIES), ("llama", "None")]
)
def test_a_run_is_that_of_supervised_training_in_trl(tmp_path, family, adapter):
    from trl import SFTTrainer

    assert_alike(*both(tmp_path, family, adapter, SFTTrainer))
