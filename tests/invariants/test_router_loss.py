"""The balancing loss of routed experts is the library's, however a step is cut or spread."""

from __future__ import annotations

import json
import os
from functools import partial

import pytest
import torch
from transformers import AutoModelForCausalLM, Trainer

from finetune_api.model_settings import Adapter, AdapterType
from finetune_api.run_progress import Progress
from finetune_trainer.activation_memory import checkpoint_layers
from finetune_trainer.adapter import Trained, trainable_model
from finetune_trainer.data import micro_batch, rank_step
from finetune_trainer.engine import Engine
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.evaluate import evaluate
from finetune_trainer.guarded_update import GuardedUpdate
from finetune_trainer.losses import RowWeights
from finetune_trainer.model import load_base
from finetune_trainer.model_config import model_config
from finetune_trainer.optim import optimizer_recipe
from finetune_trainer.probes import check_loss
from finetune_trainer.problems.causal_lm import CausalLanguageModelling
from finetune_trainer.progress import METRICS_FILE, PROGRESS_FILE
from finetune_trainer.ring import Ring
from finetune_trainer.router_balance import RouterBalance, router_balance
from one_rank import losses_and_norms, one_rank
from peer_trainers import padded, peer_model, rows_of, trained
from strategy_ground import (
    CACHE,
    PEAK,
    TRAINING,
    largest_difference,
    leave_pieces,
    plan,
    ranks,
    read_pieces,
    take_steps,
    together,
)
from tiny_models import tiny_model
from toy_llama import token_cache

pytestmark = pytest.mark.filterwarnings("ignore")
sweep = pytest.mark.sweep
COEFFICIENT, STEPS, BATCH, RATE = 0.5, 4, 4, 2e-3
TOLERANCE = 5e-6
"""Routed experts sum what they are given in groups; a dense model stays below 1e-6."""
FEW = {"num_experts_per_tok": 2, "output_router_logits": True, "router_aux_loss_coef": COEFFICIENT}
ROUTED = {
    "mixtral": {"num_local_experts": 4},
    "qwen2_moe": {
        "num_experts": 4,
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 24,
    },
    "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 24, "head_dim": 12},
    "olmoe": {"num_experts": 4},
}


def routed_model(folder, family, **changes):
    return tiny_model(folder, family, **FEW | ROUTED[family] | changes)


@pytest.fixture
def noted(monkeypatch):
    """Return [loss, router loss] of every step, as the device told them."""
    found, close = [], Ring.close

    def noting(self, step, losses, norm):
        found.append(losses.tolist())
        close(self, step, losses, norm)

    monkeypatch.setattr(Ring, "close", noting)
    return found


def assembled(folder, family, cache=None, *, adapter="None", plan=None, **changes):
    choices = {
        "globalBatchSize": BATCH,
        "totalSteps": STEPS,
        "stepsPerEpoch": STEPS,
        "epochs": 1.0,
        "maxTokensPerDevice": 400,
        "learningRate": RATE,
    }
    return one_rank(
        folder / "run",
        routed_model(folder / "model", family, **changes),
        cache or token_cache(STEPS * BATCH),
        choices | (plan or {}),
        adapter={"type": adapter},
        training={"scheduler": "Linear", "adamEpsilon": 1e-5},
    )


@pytest.mark.parametrize("adapter", ["None", "LoRA"], ids=["full", "LoRA"])
@pytest.mark.parametrize("family", ROUTED)
def test_a_run_is_that_of_transformers_trainer(tmp_path, noted, family, adapter):
    run = assembled(tmp_path, family, adapter=adapter)
    ours = run.engine.task.model
    theirs = peer_model(tmp_path / "model", ours, attention="sdpa")
    norms = [norm for _, norm in losses_and_norms(run)]
    expected = trained(
        Trainer,
        theirs,
        list(rows_of(token_cache(STEPS * BATCH), run.plan)),
        output_dir=str(tmp_path / "out"),
        per_device_train_batch_size=BATCH,
        max_steps=STEPS,
        learning_rate=RATE,
        lr_scheduler_type="linear",
        adam_epsilon=1e-5,
    )
    totals = [loss + COEFFICIENT * router for loss, router in noted]
    assert totals == pytest.approx([loss for loss, _ in expected], abs=1e-5)
    assert norms == pytest.approx([norm for _, norm in expected], rel=1e-4)
    assert all(COEFFICIENT * router > 0.5 for _, router in noted)
    named = dict(theirs.named_parameters())
    for name, one in ours.named_parameters():
        assert torch.allclose(one, named[name], rtol=0, atol=RATE / 100), name


def test_a_router_moves_by_its_balancing_loss(tmp_path):
    moved = []
    for number, coefficient in enumerate((0.0, COEFFICIENT)):
        folder = tmp_path / str(number)
        run = assembled(folder, "mixtral", router_aux_loss_coef=coefficient)
        losses_and_norms(run)
        weights = dict(run.engine.task.model.named_parameters())
        moved.append(next(one for name, one in weights.items() if "gate.weight" in name))
    assert not torch.allclose(*moved, rtol=0, atol=RATE / 10)


def library_step(folder, cache, cuts):
    """Return the gradients of a step by the library alone: its own losses, weighted by tokens."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    total, supervised = sum(cache.lengths), sum(cache.supervised)
    for cut in cuts:
        rows = []
        for i in cut:
            part = slice(cache.offsets[i], cache.offsets[i + 1])
            pairs = zip(cache.tokens[part].tolist(), cache.flags[part].tolist(), strict=True)
            tokens, labels = zip(*((t, t if flag & 1 else -100) for t, flag in pairs), strict=True)
            rows.append({"input_ids": list(tokens), "labels": list(labels)})
            rows[-1]["attention_mask"] = [1] * len(tokens)
        batch = padded(rows)
        output = model(**batch, num_items_in_batch=int(supervised))
        share = int(batch["attention_mask"].sum()) / total
        plain = output.loss - COEFFICIENT * output.aux_loss
        (plain + COEFFICIENT * share * output.aux_loss).backward()
    return {name: one.grad for name, one in model.named_parameters()}


@pytest.mark.parametrize("form", ["packed", "padded"])
@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_micro_batches_count_by_their_tokens_and_padding_never(tmp_path, family, form):
    cache, cuts = token_cache(7), [[0, 3, 5], [1, 2], [4], [6]]
    choice = {"batching": "Padded"} if form == "padded" else {}
    task = assembled(tmp_path, family, cache, plan=choice).engine.task
    weights = RowWeights("Tokens", int(sum(cache.supervised)), 7, int(sum(cache.lengths)))
    make = partial(micro_batch, cache, weights=weights, padded=form == "padded")
    for cut in [*cuts, []]:
        task(make(cut)).backward()
    expected = library_step(tmp_path / "model", cache, cuts)
    for name, one in task.model.named_parameters():
        torch.testing.assert_close(one.grad, expected[name], rtol=1e-4, atol=2e-6, msg=name)


def test_an_empty_micro_batch_has_no_loss_at_all(tmp_path):
    task = assembled(tmp_path, "mixtral").engine.task
    loss = task(micro_batch(CACHE, [], 1.0))
    loss.backward()
    assert task.parts(loss).tolist() == [0.0, 0.0]
    assert not any(one.grad.any() for one in task.model.parameters() if one.grad is not None)


def replicated(task, update, world):
    return Engine(task, update, world, torch.float32)


def fsdp(task, update, world):
    from finetune_trainer.engine_fsdp import ShardedEngine, Sharding

    sharding = Sharding(group_size=world.size)
    return ShardedEngine(task, update, world, torch.float32, sharding)


def zero(task, update, world, *, stage):
    from finetune_api.strategy_settings import DeepSpeed
    from finetune_trainer.deepspeed_config import deepspeed_config
    from finetune_trainer.engine_deepspeed import ZeroEngine

    class Asked:
        deepspeed = DeepSpeed(stage3_param_persistence_threshold=0) if stage == 3 else DeepSpeed()

    config = deepspeed_config(Asked(), stage=stage, half=False, pinned=False)
    return ZeroEngine(task, update, world, torch.float32, config)


def guarded(recipe, named):
    return GuardedUpdate(recipe(named), named[0][1].device, keep_flag=True)


def state_of(folder, model, build, size, *, kind):
    """Train on `size` ranks; return weights, moments and the steps' losses over all ranks."""

    def work(world):
        balance = router_balance(model_config(model))
        base = load_base(model, torch.float32)
        base.config.output_router_logits = False
        trained = trainable_model(base, Trained(Adapter(type=kind), rank=4, alpha=8.0, seed=5))
        recipe = optimizer_recipe(trained, TRAINING, PEAK)
        task = CausalLanguageModelling(trained, 5, balance=balance)
        engine = build(task, partial(guarded, recipe), world)
        losses = take_steps(engine)
        leave_pieces(folder, engine)
        (folder / f"losses-{world.rank}.json").write_text(json.dumps(losses))

    folder.mkdir()
    ranks(folder, size, work)
    shares = [json.loads(path.read_bytes()) for path in folder.glob("losses-*.json")]
    return together(read_pieces(folder)), [sum(one) for one in zip(*shares, strict=True)]


@pytest.mark.parametrize("kind", [AdapterType.NONE, AdapterType.LORA], ids=["full", "LoRA"])
@pytest.mark.parametrize(
    ("build", "size"),
    [
        pytest.param(replicated, 2, id="DDP, 2 ranks"),
        pytest.param(replicated, 3, id="DDP, 3 ranks", marks=sweep),
        pytest.param(fsdp, 2, id="FSDP, 2 ranks"),
        pytest.param(partial(zero, stage=2), 2, id="ZeRO-2, 2 ranks", marks=sweep),
        pytest.param(partial(zero, stage=3), 2, id="ZeRO-3, 2 ranks"),
    ],
)
def test_every_strategy_and_world_make_the_same_update(tmp_path, build, size, kind):
    os.environ["DS_ACCELERATOR"] = "cpu"
    model = routed_model(tmp_path / "model", "mixtral")
    one, alone = state_of(tmp_path / "one", model, replicated, 1, kind=kind)
    found, shared = state_of(tmp_path / "many", model, build, size, kind=kind)
    assert largest_difference(one, found) <= TOLERANCE
    assert shared == pytest.approx(alone, rel=TOLERANCE)
    assert any(len(rank_step(CACHE, plan(), number, 0, 1).batches) > 1 for number in range(3))


def test_recomputed_layers_give_the_same_gradients(tmp_path):
    batch, found = micro_batch(CACHE, range(4), 1.0), []
    for number in range(2):
        task = assembled(tmp_path / str(number), "mixtral").engine.task
        checkpoint_layers(task.model, 2 * number, own_dropout=False)
        task(batch).backward()
        found.append({name: one.grad for name, one in task.model.named_parameters()})
    for name, gradient in found[0].items():
        assert torch.equal(found[1][name], gradient), name


def test_validation_and_answers_know_nothing_of_it(tmp_path):
    found = []
    for number, coefficient in enumerate((0.0, 5.0)):
        folder = tmp_path / str(number)
        engine = assembled(folder, "mixtral", router_aux_loss_coef=coefficient).engine
        given = evaluate(engine, CACHE, range(6), budget=60, turn=lambda: None)
        batch = micro_batch(CACHE, range(6), 1.0)
        assert "router_logits" not in engine.task._decoded(batch)
        found.append(given.values)
    assert found[0] == found[1]


def test_a_run_reports_it_apart_from_its_loss(tmp_path, noted):
    run = assembled(tmp_path, "mixtral")
    losses = [loss for loss, _ in losses_and_norms(run)]
    assert losses == pytest.approx([loss for loss, _ in noted])
    run.board.publish(force=True)
    told = Progress.model_validate_json((tmp_path / "run" / PROGRESS_FILE).read_bytes())
    assert (told.loss, told.router_loss) == pytest.approx(tuple(noted[-1]))
    assert "finetune_train_router_loss" in (tmp_path / "run" / METRICS_FILE).read_text()


def test_a_loss_that_the_library_computes_otherwise_is_refused(tmp_path):
    task = assembled(tmp_path, "mixtral").engine.task
    known = task.balance
    check_loss(task)
    task.balance = RouterBalance(
        known.coefficient, known.experts, known.chosen, lambda *given: 2 * known.function(*given)
    )
    with pytest.raises(ConfigurationError, match="output_router_logits") as refused:
        check_loss(task)
    assert refused.value.reason == "UnsupportedModel"
