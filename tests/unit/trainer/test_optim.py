"""Parameter groups, and optimizers that are what their names say and can be made inert."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from finetune_api.training_settings import OptimizerName, ParameterGroup, Training
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.guarded_update import GuardedUpdate
from finetune_trainer.optim import optimizer_recipe, parameter_groups
from finetune_trainer.parameter_match import ParameterMatch

NAMES = [OptimizerName(one) for one in ("AdamW", "Adam", "SGD", "RMSprop", "Adadelta")]
QUANTISED = [one for one in OptimizerName if one not in NAMES]


class Tiny(nn.Module):
    """A causal model's outline: embeddings, one layer, a norm, a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embed, self.layer = nn.Embedding(70, 64), nn.Linear(64, 64)
        self.norm, self.lm_head = nn.LayerNorm(64), nn.Linear(64, 70, bias=False)

    def get_input_embeddings(self):
        return self.embed

    def get_output_embeddings(self):
        return self.lm_head


def groups_of(model, **training):
    settings = Training(**training)
    named = list(model.named_parameters())
    return parameter_groups(named, settings, ParameterMatch(model), 1e-3)


def guarded(model, *, keep_flag=False, **training) -> GuardedUpdate:
    training["optimizer"] = OptimizerName(training.get("optimizer", "AdamW"))
    build = optimizer_recipe(model, Training(**training), 1e-2)
    return GuardedUpdate(build(model.named_parameters()), torch.device("cpu"), keep_flag=keep_flag)


def stepped(model, update, step, value=1.0, factor=1.0):
    generator = torch.Generator().manual_seed(step)
    for one in model.parameters():
        one.grad = torch.randn(one.shape, generator=generator) * value
    norm = torch.stack([one.grad.norm() for one in model.parameters()]).norm()
    update.update(norm, factor)


def everything(model, update):
    moments = {
        f"{name}.{key}": value.clone()
        for name, one in model.named_parameters()
        for key, value in update.moments(one).items()
    }
    return {name: one.detach().clone() for name, one in model.named_parameters()} | moments


def test_tensors_of_one_dimension_do_not_decay():
    decayed, spared = groups_of(Tiny(), weight_decay=0.1)
    assert {one.ndim for one in decayed["params"]} == {2}
    assert {one.ndim for one in spared["params"]} == {1}
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)


def test_by_default_the_head_learns_as_fast_as_the_body():
    assert {group["peak"] for group in groups_of(Tiny())} == {1e-3}


def test_the_first_matching_group_takes_a_parameter():
    model = Tiny()
    listed = [
        ParameterGroup(match=["head", "embeddings"], learning_rate=1e-5),
        ParameterGroup(match=["layer.weight", "norm"], weight_decay=0.5),
        ParameterGroup(match=["backbone"], learning_rate=0.0),
    ]
    groups = groups_of(model, parameter_groups=listed, weight_decay=0.1)
    named = {id(one): name for name, one in model.named_parameters()}
    found = [
        (sorted(named[id(one)] for one in g["params"]), g["peak"], g["weight_decay"])
        for g in groups
    ]
    assert found == [
        (["embed.weight", "lm_head.weight"], 1e-5, 0.1),
        (["layer.weight"], 1e-3, 0.5),
        (["norm.bias", "norm.weight"], 1e-3, 0.0),
        (["layer.bias"], 0.0, 0.0),
    ]


@pytest.mark.parametrize("pattern", ["attention", "head"], ids=["unknown", "taken before"])
def test_a_group_that_nothing_is_left_for_is_refused(pattern):
    listed = [ParameterGroup(match=["lm_head"]), ParameterGroup(match=[pattern])]
    with pytest.raises(ConfigurationError, match=pattern) as refused:
        groups_of(Tiny(), parameter_groups=listed)
    assert refused.value.reason == "NoMatchingParameters"


def test_frozen_tensors_are_in_no_group():
    model = Tiny()
    model.layer.requires_grad_(requires_grad=False)
    update = guarded(model)
    assert sum(len(group["params"]) for group in update.optimizer.param_groups) == 4


def test_each_group_moves_at_its_own_rate_along_the_schedule():
    model = Tiny()
    still = [ParameterGroup(match=["backbone"], learning_rate=0.0)]
    before = everything(model, update := guarded(model, parameter_groups=still))
    stepped(model, update, 1, factor=0.5)
    after = everything(model, update)
    assert torch.equal(after["layer.weight"], before["layer.weight"])
    assert not torch.equal(after["lm_head.weight"], before["lm_head.weight"])
    assert sorted({group["lr"] for group in update.optimizer.param_groups}) == [0.0, 5e-3]


@pytest.mark.parametrize("keep_flag", [False, True], ids=["flag of one step", "flag that stays"])
@pytest.mark.parametrize("name", NAMES + QUANTISED)
@pytest.mark.parametrize("bad_step", [1, 7], ids="at update {}".format)
def test_an_update_that_is_not_finite_touches_nothing(name, bad_step, keep_flag):
    model = Tiny()
    update = guarded(model, optimizer=name, keep_flag=keep_flag)
    for step in range(1, bad_step):
        stepped(model, update, step)
    before = everything(model, update)
    stepped(model, update, bad_step, value=float("nan"))
    after_bad = everything(model, update)
    stepped(model, update, bad_step + 1)
    moved = everything(model, update)
    for one in before:
        assert torch.equal(before[one], after_bad[one]), one
    assert torch.equal(moved["layer.weight"], before["layer.weight"]) == keep_flag
    assert all(one.isfinite().all() for one in moved.values())


@pytest.mark.parametrize("name", NAMES)
def test_an_inert_first_update_leaves_the_trajectory_as_if_it_had_not_been(name):
    spoiled, plain = Tiny(), Tiny()
    late, update = guarded(spoiled, optimizer=name), guarded(plain, optimizer=name)
    stepped(spoiled, late, 0, value=float("inf"))
    for step in range(1, 4):
        stepped(spoiled, late, step)
        stepped(plain, update, step)
    ours, theirs = everything(spoiled, late), everything(plain, update)
    assert all(torch.equal(ours[one], theirs[one]) for one in theirs)


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("AdamW", lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1)),
        ("Adam", lambda p: torch.optim.Adam(p, lr=1e-2, weight_decay=0.1)),
        ("SGD", lambda p: torch.optim.SGD(p, 1e-2, 0.9, nesterov=True, weight_decay=0.1)),
        ("RMSprop", lambda p: torch.optim.RMSprop(p, 1e-2, 0.9, momentum=0.9, weight_decay=0.1)),
        ("Adadelta", lambda p: torch.optim.Adadelta(p, lr=1e-2, weight_decay=0.1)),
        ("PagedAdamW32bit", lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1)),
    ],
)
def test_an_optimizer_is_what_its_name_says(name, build):
    ours, theirs = nn.ParameterList([torch.ones(9, 9)]), nn.ParameterList([torch.ones(9, 9)])
    recipe = optimizer_recipe(
        Tiny(), Training(optimizer=OptimizerName(name), weight_decay=0.1), 1e-2
    )
    update = GuardedUpdate(recipe([("one", ours[0])]), torch.device("cpu"), keep_flag=False)
    other = build(theirs)
    for step in range(5):
        stepped(ours, update, step)
        theirs[0].grad = torch.randn(9, 9, generator=torch.Generator().manual_seed(step))
        other.step()
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["AdamW8bit", "PagedAdamW8bit"])
def test_8_bit_adamw_follows_adamw_and_not_adam(name):
    models = {one: Tiny() for one in (name, "AdamW", "Adam")}
    updates = {
        one: guarded(model, optimizer=one, weight_decay=0.5) for one, model in models.items()
    }
    for step in range(5):
        for one, model in models.items():
            stepped(model, updates[one], step)
    weights = {one: model.layer.weight.detach() for one, model in models.items()}
    near = (weights[name] - weights["AdamW"]).abs().mean()
    far = (weights["Adam"] - weights["AdamW"]).abs().mean()
    assert 0 < near < far / 4


def test_only_large_tensors_that_are_no_embeddings_have_8_bit_moments():
    model = Tiny()
    update = guarded(model, optimizer="AdamW8bit")
    types = {name: update.moments(one)["state1"].dtype for name, one in model.named_parameters()}
    assert types == {
        "embed.weight": torch.float32,
        "layer.weight": torch.uint8,
        "layer.bias": torch.float32,
        "norm.weight": torch.float32,
        "norm.bias": torch.float32,
        "lm_head.weight": torch.uint8,
    }


@pytest.mark.parametrize("name", NAMES + QUANTISED)
def test_moments_loaded_into_a_new_optimizer_continue_the_trajectory(name):
    model = Tiny()
    update = guarded(model, optimizer=name)
    for step in range(3):
        stepped(model, update, step)
    again = copy.deepcopy(model)
    resumed = guarded(again, optimizer=name)
    for old, new in zip(model.parameters(), again.parameters(), strict=True):
        resumed.load_moments(new, update.moments(old))
    for step in range(3, 6):
        stepped(model, update, step)
        stepped(again, resumed, step)
    ours, theirs = everything(again, resumed), everything(model, update)
    assert all(torch.equal(ours[one], theirs[one]) for one in theirs)


@pytest.mark.parametrize(
    ("field", "value", "optimizer"),
    [
        ("adam_beta1", 0.5, "AdamW"),
        ("adam_beta2", 0.5, "AdamW8bit"),
        ("adam_epsilon", 0.1, "PagedAdamW32bit"),
        ("adam_epsilon", 0.1, "Adam"),
        ("momentum", 0.0, "SGD"),
        ("momentum", 0.5, "RMSprop"),
        ("weight_decay", 0.5, "Adadelta"),
    ],
)
def test_every_setting_moves_the_weights_elsewhere(field, value, optimizer):
    ends = []
    for settings in ({}, {field: value}):
        model = Tiny()
        update = guarded(model, optimizer=optimizer, **settings)
        for step in range(3):
            stepped(model, update, step)
        ends.append(model.layer.weight.detach())
    assert not torch.equal(*ends)


def test_only_optimizers_without_the_flag_read_it_on_the_host():
    readers = [
        one for one in NAMES + QUANTISED if not guarded(Tiny(), optimizer=one).reads_on_device
    ]
    assert readers == [*NAMES[3:], *QUANTISED]


@pytest.mark.parametrize(
    "family", ["llama", "qwen2", "qwen3", "gemma2", "mistral", "phi", "gpt_neox", "cohere"]
)
def test_no_bias_and_no_norm_of_any_family_decays(family):
    shape = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "pad_token_id": 0}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 16}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**shape, **heads))
    decayed, *spared = groups_of(model, weight_decay=0.1)
    norms = [
        one
        for module in model.modules()
        if "Norm" in type(module).__name__
        for one in module.parameters()
    ]
    biases = [one for name, one in model.named_parameters() if name.endswith("bias")]
    assert norms
    left_out = {id(one) for group in spared for one in group["params"]}
    assert left_out == {id(one) for one in norms + biases}
    assert left_out.isdisjoint(id(one) for one in decayed["params"])
