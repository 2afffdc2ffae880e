"""An update is made of all its micro-batches, counts once, and decays and saves what it should."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open

from finetune_trainer.loop import Loop
from one_rank import losses_and_norms, one_rank
from tiny_models import FAMILIES, PADDED, tiny_model
from toy_llama import token_cache

SAMPLES, BATCH, EPOCHS = 10, 4, 2
UPDATES = 3
"""Per epoch: two whole ones and one of the last two samples."""
LONGEST, ALL = 24, 240
PLAN = {
    "globalBatchSize": BATCH,
    "stepsPerEpoch": UPDATES,
    "totalSteps": EPOCHS * UPDATES,
    "epochs": float(EPOCHS),
    "warmupSteps": 2,
}


def run_of(folder, budget, **spec):
    plan = PLAN | {"maxTokensPerDevice": budget}
    return one_rank(folder / "run", tiny_model(folder / "model", "llama"), SAMPLE, plan, **spec)


SAMPLE = token_cache(SAMPLES)


@pytest.fixture(scope="module")
def accumulated(tmp_path_factory):
    """A run whose updates take several micro-batches, and one whose updates take a single one."""
    found = {}
    for budget in (LONGEST, ALL):
        run = run_of(tmp_path_factory.mktemp("run"), budget, training={"scheduler": "Cosine"})
        steps = losses_and_norms(run)
        weights = {n: one.detach().clone() for n, one in run.engine.task.named_parameters()}
        micro_batches = [len(run.plan.step(i).micro_batches) for i in range(EPOCHS * UPDATES)]
        found[budget] = (
            steps,
            weights,
            micro_batches,
            [rate for _, _, rate, _ in run.record.history],
        )
    return found


def test_ten_samples_by_four_are_three_updates_per_epoch_however_they_are_accumulated(accumulated):
    """The last two samples of an epoch are neither lost nor carried over."""
    many, one = accumulated[LONGEST], accumulated[ALL]
    assert max(many[2]) > 1
    assert set(one[2]) == {1}
    assert len(many[0]) == len(one[0]) == EPOCHS * UPDATES
    for (loss, norm), (whole_loss, whole_norm) in zip(many[0], one[0], strict=True):
        assert loss == pytest.approx(whole_loss, abs=1e-6)
        assert norm == pytest.approx(whole_norm, rel=1e-5)
    for name, weight in one[1].items():
        torch.testing.assert_close(many[1][name], weight, rtol=0, atol=1e-5)


def test_the_rate_advances_by_updates_and_not_by_micro_batches(accumulated):
    assert accumulated[LONGEST][3] == accumulated[ALL][3]
    assert len(set(accumulated[ALL][3])) > 3


@pytest.mark.parametrize("adapter", ["None", "DoRA"], ids=["full", "DoRA"])
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_of_one_dimension_decays_in_any_family(tmp_path, family, adapter):
    plan = PLAN | {"maxTokensPerDevice": ALL} | PADDED.get(family, {})
    run = one_rank(
        tmp_path / "run",
        tiny_model(tmp_path / "model", family),
        SAMPLE,
        plan,
        adapter={"type": adapter},
        training={"weightDecay": 0.1},
    )
    groups = run.engine._update.optimizer.param_groups
    decayed = [one for group in groups if group["weight_decay"] for one in group["params"]]
    spared = [one for group in groups if not group["weight_decay"] for one in group["params"]]
    assert decayed
    assert spared
    assert {one.ndim for one in decayed} == {2}
    assert {one.ndim for one in spared} == {1}
    trained = [one for one in run.engine.task.parameters() if one.requires_grad]
    assert len(decayed) + len(spared) == len(trained)


def test_a_checkpoint_of_an_adapter_holds_no_base(tmp_path):
    """Weights and two moments of what is trained, and one counter for each."""
    run = run_of(tmp_path, ALL, checkpoint={"everySteps": UPDATES, "everySeconds": 0})
    loop = Loop(run)
    loop.take_steps()
    loop.finish_saving()
    adapter = sum(one.numel() for one in run.engine.task.parameters() if one.requires_grad)
    paths = list(tmp_path.glob("run/claims/**/step-*/*.safetensors"))
    assert paths
    for folder in {one.parent for one in paths}:
        held = [tensor for path in folder.glob("*.safetensors") for tensor in tensors_of(path)]
        assert all("lora_" in name for name, _ in held)
        numbers = sum(one.numel() for _, one in held)
        assert 3 * adapter <= numbers < 3.1 * adapter


def tensors_of(path):
    with safe_open(path, "pt") as file:
        yield from ((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118
