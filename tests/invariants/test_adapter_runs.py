"""Every setting of adapter, quantisation and freezing acts in a run, and the run learns."""

from __future__ import annotations

import json

import pytest
import torch

from one_rank import losses_and_norms, one_rank
from toy_llama import VOCABULARY, token_cache, toy_llama_folder
from training_ground import TrainingGround

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
PLAN = {
    "totalSteps": 6,
    "stepsPerEpoch": 5,
    "learningRate": 0.02,
    "warmupSteps": 0,
    "globalBatchSize": 8,
}
CACHE = token_cache(40)
NF4 = {"quantization": "NF4"}


def trained(folder, *, plan=None, prepared=None, **spec):
    """Return the run after its steps, and their losses."""
    folder.mkdir()
    for name, content in (prepared or {}).items():
        (folder / "prepared").mkdir()
        (folder / "prepared" / name).write_text(content)
    model = toy_llama_folder(folder / "toy")
    run = one_rank(folder, model, CACHE, PLAN | (plan or {}), **spec)
    losses = [loss for loss, _ in losses_and_norms(run)]
    return run, losses


def weights(run) -> dict[str, torch.Tensor]:
    return {piece.name: piece.tensor for piece in run.engine.weights()}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param({}, {"adapter": {"type": "DoRA"}}, id="type"),
        pytest.param({}, {"plan": {"rank": 2}}, id="rank"),
        pytest.param({}, {"plan": {"alpha": 4.0}}, id="alpha"),
        pytest.param({}, {"adapter": {"rslora": True}}, id="rslora"),
        pytest.param({}, {"adapter": {"dropout": 0.3}}, id="dropout"),
        pytest.param({}, {"adapter": {"targetModules": ["q_proj"]}}, id="targetModules"),
        pytest.param({}, {"adapter": {"excludeModules": ["mlp.*"]}}, id="excludeModules"),
        pytest.param({}, {"adapter": {"layers": [1]}}, id="layers"),
        pytest.param({}, {"adapter": {"modulesToSave": ["lm_head"]}}, id="modulesToSave"),
        pytest.param({}, {"plan": NF4}, id="quantization NF4"),
        pytest.param({"plan": NF4}, {"plan": {"quantization": "FP4"}}, id="quantization FP4"),
        pytest.param({}, {"plan": {"quantization": "Int8"}}, id="quantization Int8"),
        pytest.param(
            {"plan": NF4},
            {"plan": NF4, "model": {"doubleQuantization": False}},
            id="doubleQuantization",
        ),
        pytest.param(
            {"adapter": {"type": "None"}},
            {"adapter": {"type": "None"}, "training": {"freeze": ["embeddings"]}},
            id="freeze",
        ),
        pytest.param(
            {"plan": {"computeDtype": "BFloat16"}},
            {"plan": {"computeDtype": "BFloat16"}, "model": {"dtype": "Float32"}},
            id="dtype",
        ),
    ],
)
def test_a_setting_changes_the_trajectory_and_the_run_still_learns(tmp_path, one, other):
    place = {"volumeClaim": {"claimName": "models", "path": "toy"}}
    found = []
    for number, settings in enumerate((one, other)):
        blocks = settings | {"model": place | settings.get("model", {})}
        losses = trained(tmp_path / str(number), **blocks)[1]
        assert losses[-1] < losses[0]
        found.append(losses)
    assert max(abs(a - b) for a, b in zip(*found, strict=True)) > 1e-6


def test_new_tokens_are_trained_beside_an_adapter_and_through_the_row_loss(tmp_path):
    tokens = [{"id": VOCABULARY + n, "token": f"<{n}>", "pieces": [4 + n]} for n in range(2)]
    content = json.dumps({"version": 1, "vocabulary": VOCABULARY + 2, "tokens": tokens})
    run, losses = trained(tmp_path / "run", prepared={"new_tokens.json": content})
    rows = {name: one for name, one in weights(run).items() if "trainable_tokens" in name}
    assert [tuple(one.shape) for one in rows.values()] == [(2, 32), (2, 32)]
    assert run.engine.task.vocabulary == VOCABULARY + 2
    # The rows of the head are never the right answer here: they move from where they began.
    still, _ = trained(
        tmp_path / "s", prepared={"new_tokens.json": content}, plan={"learningRate": 0}
    )
    name = next(name for name in rows if "lm_head" in name)
    assert not torch.equal(rows[name], weights(still)[name])
    assert losses[-1] < losses[0]


def test_a_child_goes_on_where_its_parent_ended(tmp_path):
    ground = TrainingGround(tmp_path)
    parent = ground.forked(ground.config(training={"maxSteps": 4}, plan={"totalSteps": 4}))
    result = parent.completed()
    assert result.result is not None
    ended = {one.name: one.value for one in result.training.metrics if one.step == 4}
    ancestor = {
        "experiment": "parent",
        "uid": "5f0c",
        "step": 4,
        "uri": result.result.uri,
        "digest": result.result.digest,
        "kind": "Adapter",
        "handover": "Continue",
        "location": {"volumeClaim": {"claimName": "results"}},
    }
    place = {"volumeClaim": {"claimName": "models", "path": "toy"}}
    config = ground.config(2, plan={"totalSteps": 1, "learningRate": 0.0})
    config["identity"]["name"] = "child"
    config["start"] = {"base": place, "ancestors": [ancestor]}
    config["spec"]["model"] = {"fromExperiment": {"name": "parent"}}
    for handover in ("Continue", "Merge"):
        ancestor["handover"] = handover
        config["spec"]["model"]["adapterHandover"] = handover
        config["identity"] |= {"uid": handover, "attempt": config["identity"]["attempt"] + 1}
        code, outcome = ground.ended(config)
        assert (code, outcome.message) == (0, "")
        began = {one.name: one.value for one in outcome.training.metrics if one.step == 0}
        assert began["loss"] == pytest.approx(ended["loss"], rel=1e-5)
