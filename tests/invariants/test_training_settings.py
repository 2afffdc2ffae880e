"""Every setting of the optimisation reaches the run: changing it changes the trajectory."""

from __future__ import annotations

import pytest
import torch

from finetune_api.run_progress import Progress
from finetune_trainer.progress import METRICS_FILE, PROGRESS_FILE
from finetune_trainer.step_clock import PHASES
from one_rank import FULL, losses_and_norms, one_rank
from toy_llama import token_cache, toy_llama_folder

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

STEPS = {"totalSteps": 6, "stepsPerEpoch": 3, "globalBatchSize": 4}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return toy_llama_folder(tmp_path_factory.mktemp("model") / "toy")


def trajectory(folder, toy, training, plan=None):
    run = one_rank(folder, toy, token_cache(12), STEPS | (plan or {}), training=training, **FULL)
    return losses_and_norms(run)


@pytest.fixture(scope="module")
def plain(toy, tmp_path_factory):
    return trajectory(tmp_path_factory.mktemp("plain"), toy, {})


CHANGES = {
    "optimizer AdamW8bit": {"optimizer": "AdamW8bit"},
    "optimizer Adam with decay": {"optimizer": "Adam", "weightDecay": 0.5},
    "optimizer SGD": {"optimizer": "SGD"},
    "optimizer RMSprop": {"optimizer": "RMSprop"},
    "optimizer Adadelta": {"optimizer": "Adadelta"},
    "adamBeta1": {"adamBeta1": 0.5},
    "adamBeta2": {"adamBeta2": 0.5},
    "adamEpsilon": {"adamEpsilon": 0.1},
    "weightDecay": {"weightDecay": 0.9},
    "maxGradNorm": {"maxGradNorm": 0.001, "optimizer": "SGD"},
    "lossAveraging": {"lossAveraging": "Samples"},
    "labelSmoothing": {"labelSmoothing": 0.3},
    "scheduler Constant": {"scheduler": "Constant"},
    "scheduler Linear": {"scheduler": "Linear"},
    "schedulerCycles": {"scheduler": "CosineWithRestarts", "schedulerCycles": 3},
    "scheduler InverseSqrt": {"scheduler": "InverseSqrt"},
    "decayRatio": {"scheduler": "WarmupStableDecay", "decayRatio": 0.9},
    "minLearningRateRatio": {"minLearningRateRatio": 0.5},
    "parameterGroups": {"parameterGroups": [{"match": ["head"], "learningRate": 0.5}]},
}


@pytest.mark.parametrize("training", CHANGES.values(), ids=CHANGES)
def test_a_changed_setting_changes_the_trajectory(tmp_path, toy, plain, training):
    found = trajectory(tmp_path, toy, training)
    assert len(found) == len(plain) == 6
    assert found != plain
    assert all(torch.isfinite(torch.tensor(one)).all() for one in found)


PAIRS = {
    "momentum": ({"optimizer": "SGD"}, {"momentum": 0.0}),
    "maxGradNorm": ({"optimizer": "SGD"}, {"maxGradNorm": 0.001}),
    "schedulerCycles": ({"scheduler": "CosineWithRestarts"}, {"schedulerCycles": 3}),
    "decayRatio": ({"scheduler": "WarmupStableDecay"}, {"decayRatio": 0.9}),
}


@pytest.mark.parametrize(("settings", "change"), PAIRS.values(), ids=PAIRS)
def test_a_setting_that_needs_another_one_acts_with_it(tmp_path, toy, settings, change):
    one = trajectory(tmp_path / "one", toy, settings)
    other = trajectory(tmp_path / "other", toy, settings | change)
    assert one != other


@pytest.mark.parametrize("plan", [{"warmupSteps": 4}, {"learningRate": 0.02}], ids=str)
def test_a_resolved_choice_changes_the_trajectory(tmp_path, toy, plain, plan):
    assert trajectory(tmp_path, toy, {}, plan) != plain


@pytest.mark.parametrize("name", ["AdamW", "AdamW8bit", "PagedAdamW32bit", "SGD", "RMSprop"])
def test_every_optimizer_lowers_the_loss(tmp_path, toy, name):
    rate = {"SGD": 0.05, "RMSprop": 0.002}.get(name, 0.01)
    plan = {"totalSteps": 12, "learningRate": rate}
    losses = [loss for loss, _ in trajectory(tmp_path, toy, {"optimizer": name}, plan)]
    assert sum(losses[-3:]) < sum(losses[:3])


def test_a_run_shows_speed_phases_and_shares_while_it_trains(tmp_path, toy):
    run = one_rank(tmp_path, toy, token_cache(12), STEPS, **FULL)
    losses_and_norms(run)
    run.board.publish(force=True)
    shown = Progress.model_validate_json((tmp_path / PROGRESS_FILE).read_bytes())
    assert tuple(shown.phase_seconds) == PHASES
    assert 0 < shown.supervised_tokens_per_second <= shown.tokens_per_second
    assert (shown.step, shown.total_steps, shown.padding, shown.mfu) == (6, 6, 0.0, None)
    assert 0 < shown.fill <= 1
    text = (tmp_path / METRICS_FILE).read_text()
    for series in ("step_seconds_count", "data_wait_seconds_count", "phase_seconds_count"):
        assert f"finetune_train_{series}" in text
    assert "# TYPE finetune_train_tokens_total counter" in text
