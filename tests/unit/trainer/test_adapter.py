"""What each adapter setting trains, under which names it is saved, and what stays as it was."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from finetune_api.model_settings import Adapter, AdapterType
from finetune_trainer.adapter import Trained, adapter_config, saved_name, trainable_model
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.fused_lora import FusedForward
from finetune_trainer.merge import tied_names
from finetune_trainer.vocabulary import NewRow, new_rows
from toy_llama import VOCABULARY, toy_llama_folder

pytestmark = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing.:FutureWarning",
    "ignore:You have requested .ensure_weight_tying.:UserWarning",
)
TOKENS = torch.arange(2, 20)[None]
NEW = [NewRow(VOCABULARY, [4, 6]), NewRow(VOCABULARY + 1, [5])]


def base(folder, **settings):
    path = folder / "toy"
    if not path.exists():
        toy_llama_folder(path, **settings)
    return AutoModelForCausalLM.from_pretrained(path)


def trained(folder, *, tied=False, rows=(), freeze=(), **adapter):
    settings = Adapter(**{"type": AdapterType.LORA} | adapter)
    what = Trained(settings, rank=4, alpha=8.0, seed=5, rows=rows, freeze=freeze)
    return trainable_model(base(folder, tied=tied), what)


def names(model) -> set[str]:
    return {saved_name(name) for name, one in model.named_parameters() if one.requires_grad}


def adapted(model) -> set[str]:
    return {name.split(".lora_A")[0].removeprefix("base_model.model.") for name in names(model)}


def moved(model):
    """Give every trained tensor values that differ from the start."""
    generator = torch.Generator().manual_seed(9)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@pytest.mark.parametrize(
    ("settings", "count", "inside"),
    [
        pytest.param({}, 14, "", id="all linear layers of the blocks"),
        pytest.param({"target_modules": ["q_proj"]}, 2, "q_proj", id="a suffix"),
        pytest.param({"target_modules": ["self_attn.v_proj", "up_proj"]}, 4, "_proj", id="two"),
        pytest.param({"target_modules": ["layers.1.*_proj"]}, 7, ".1.", id="a pattern"),
        pytest.param({"exclude_modules": ["mlp.*"]}, 8, "self_attn", id="without the mlp"),
        pytest.param({"layers": [1]}, 7, ".1.", id="one block"),
        pytest.param({"layers": [0], "target_modules": ["o_proj"]}, 1, ".0.", id="layer and name"),
        pytest.param({"target_modules": ["lm_head"]}, 1, "lm_head", id="an untied head"),
        pytest.param({"modules_to_save": ["mlp"], "layers": [0]}, 4, "self_attn", id="saved"),
    ],
)
def test_targets_are_the_modules_that_the_settings_name(tmp_path, settings, count, inside):
    model = trained(tmp_path, **settings)
    found = {name for name in adapted(model) if ".lora_A" not in name and "lora_" not in name}
    layers = {one.removeprefix("base_model.model.") for one, module in model.named_modules()
              if isinstance(module, FusedForward)}  # fmt: skip
    assert len(layers) == count
    assert layers <= found
    assert all(inside in name for name in layers)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "qkv"]},
        {"target_modules": ["norm"]},
        {"exclude_modules": ["lm_head"]},
        {"modules_to_save": ["score"]},
        {"layers": [2]},
        {"target_modules": ["lm_head"], "layers": [0]},
        {"target_modules": ["q_proj"], "exclude_modules": ["q_proj"]},
    ],
    ids=str,
)
def test_a_name_that_matches_nothing_is_refused_and_named(tmp_path, settings):
    with pytest.raises(ConfigurationError, match=r"spec\.adapter\.\w+:") as refused:
        trained(tmp_path, **settings)
    assert refused.value.reason == "NoMatchingParameters"


def test_a_low_rank_update_of_a_tied_head_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="the head shares its weight"):
        trained(tmp_path, tied=True, target_modules=["lm_head", "q_proj"])


VARIANTS = [
    pytest.param({}, id="LoRA"),
    pytest.param({"rslora": True}, id="rsLoRA"),
    pytest.param({"type": AdapterType.DORA}, id="DoRA"),
    pytest.param({"modules_to_save": ["norm", "lm_head"]}, id="norm and head in full"),
    pytest.param({"modules_to_save": ["embed_tokens"]}, id="embeddings in full"),
    pytest.param({"modules_to_save": ["layers.1.mlp"]}, id="an mlp in full"),
    pytest.param({"rows": NEW}, id="new tokens"),
    pytest.param({"rows": NEW, "modules_to_save": ["embed_tokens"]}, id="tokens and embeddings"),
    pytest.param({"rows": NEW, "type": AdapterType.DORA}, id="DoRA and new tokens"),
]


@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings=True.:UserWarning")
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("settings", VARIANTS)
def test_plain_peft_reloads_the_saved_files_alone_to_the_same_logits(tmp_path, settings, tied):
    model = moved(trained(tmp_path, tied=tied, **settings))
    tokens = torch.cat((TOKENS, torch.tensor([[VOCABULARY, VOCABULARY + 1]])), 1)
    tokens = tokens if "rows" in settings else TOKENS
    saved = {
        saved_name(name): one.detach().clone()
        for name, one in model.named_parameters()
        if one.requires_grad
    }
    theirs = get_peft_model_state_dict(model, save_embedding_layers=False)
    # PEFT writes a tied tensor once per name; ours writes it once.
    assert set(saved) <= set(theirs)
    assert len(saved) == len({one.data_ptr() for one in theirs.values()})
    assert all(one.dtype is torch.float32 for one in saved.values())
    if tied:
        sources = tied_names(saved, {"lm_head.weight": "model.embed_tokens.weight"})
        saved |= {name: saved[source].clone() for name, source in sources.items()}
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_file(saved, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(adapter_config(model, "base")))
    plain = base(tmp_path)
    if "rows" in settings:
        plain.resize_token_embeddings(VOCABULARY + 2, mean_resizing=False)
    reloaded = PeftModel.from_pretrained(plain, folder).eval()
    expected = model(input_ids=tokens).logits
    torch.testing.assert_close(reloaded(input_ids=tokens).logits, expected, rtol=1e-5, atol=1e-5)


def test_dora_trains_a_magnitude_per_output_and_differs_from_lora(tmp_path):
    lora, dora = trained(tmp_path), trained(tmp_path, type=AdapterType.DORA)
    extra = names(dora) - names(lora)
    assert len(extra) == 14
    assert all(name.endswith(".lora_magnitude_vector") for name in extra)
    assert torch.allclose(lora(input_ids=TOKENS).logits, dora(input_ids=TOKENS).logits, atol=1e-6)
    assert not torch.allclose(moved(lora)(input_ids=TOKENS).logits,
                              moved(dora)(input_ids=TOKENS).logits, atol=1e-3)  # fmt: skip


def test_rank_alpha_and_rslora_scale_the_update(tmp_path):
    settings = Adapter(type=AdapterType.LORA)
    model = trainable_model(base(tmp_path), Trained(settings, rank=9, alpha=6.0))
    root = trainable_model(
        base(tmp_path), Trained(settings.model_copy(update={"rslora": True}), rank=9, alpha=6.0)
    )
    scales = [next(one.scaling["default"] for one in m.modules() if hasattr(one, "lora_A"))
              for m in (model, root)]  # fmt: skip
    assert scales == pytest.approx([6 / 9, 6 / 3])
    assert next(one for n, one in model.named_parameters() if "lora_A" in n).shape[0] == 9


def test_adapters_start_from_their_names_and_the_seed_alone(tmp_path):
    torch.manual_seed(1)
    first = trained(tmp_path).state_dict()
    torch.manual_seed(2)
    second = trained(tmp_path, layers=[1]).state_dict()
    other = trainable_model(base(tmp_path), Trained(Adapter(), rank=4, seed=6)).state_dict()
    downs = [name for name in second if "lora_A" in name]
    assert downs
    assert all(torch.equal(first[name], second[name]) for name in downs)
    assert not any(torch.equal(first[name], other[name]) for name in downs)
    assert all(not second[name].any() for name in second if "lora_B" in name)


def test_frozen_tables_keep_their_type_and_only_trained_tensors_are_32_bit(tmp_path):
    settings = Adapter(modules_to_save=["norm"])
    model = trainable_model(base(tmp_path).to(torch.bfloat16), Trained(settings, rank=4))
    kinds = {p.dtype for p in model.parameters() if p.requires_grad}
    frozen = {p.dtype for p in model.parameters() if not p.requires_grad}
    assert (kinds, frozen) == ({torch.float32}, {torch.bfloat16})


@pytest.mark.parametrize(
    ("freeze", "frozen"),
    [
        pytest.param(["embeddings"], ["embed_tokens"], id="a keyword"),
        pytest.param(["head", "layers.0."], ["lm_head", "layers.0."], id="head and a block"),
        pytest.param(["backbone"], ["layers", "model.norm"], id="all but the tables"),
    ],
)
def test_freezing_leaves_what_it_names_and_trains_the_rest(tmp_path, freeze, frozen):
    model = trained(tmp_path, type=AdapterType.NONE, freeze=freeze)
    left = {n for n, one in model.named_parameters() if not one.requires_grad}
    assert left == {n for n, _ in model.named_parameters() if any(part in n for part in frozen)}
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    optimizer.step()
    changed = {n for n, one in model.named_parameters() if not torch.equal(before[n], one)}
    assert changed == set(before) - left


@pytest.mark.parametrize("freeze", [["router"], ["embeddings", "q_projection"]], ids=str)
def test_a_pattern_that_freezes_nothing_is_refused(tmp_path, freeze):
    with pytest.raises(ConfigurationError, match=freeze[-1]):
        trained(tmp_path, type=AdapterType.NONE, freeze=freeze)


def test_freezing_everything_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="nothing to train"):
        trained(tmp_path, type=AdapterType.NONE, freeze=["backbone", "embeddings", "head"])


def test_new_rows_start_at_the_mean_of_their_pieces_and_the_vocabulary_only_grows(tmp_path):
    plain = base(tmp_path).get_input_embeddings().weight.detach()
    model = trained(tmp_path, type=AdapterType.NONE, rows=NEW)
    table = model.get_input_embeddings().weight
    assert table.shape[0] == VOCABULARY + 2
    torch.testing.assert_close(table[VOCABULARY], plain[[4, 6]].mean(0))
    torch.testing.assert_close(table[VOCABULARY + 1], plain[5])
    inside = [NewRow(40, [4, 6])]
    model = trained(tmp_path, type=AdapterType.NONE, rows=inside)
    assert model.get_output_embeddings().weight.shape[0] == VOCABULARY
    torch.testing.assert_close(model.get_input_embeddings().weight[40], plain[[4, 6]].mean(0))


def test_the_rows_of_new_tokens_come_from_the_preparation(tmp_path):
    assert new_rows(tmp_path) == []
    tokens = [{"id": 61, "token": "<a>", "pieces": [4, 6]}]
    (tmp_path / "new_tokens.json").write_text(json.dumps({"vocabulary": 62, "tokens": tokens}))
    assert new_rows(tmp_path) == [NewRow(61, [4, 6])]


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_only_the_new_rows_of_a_table_are_trained_beside_an_adapter(tmp_path, tied):
    model = trained(tmp_path, tied=tied, rows=NEW)
    tokens = torch.tensor([[3, VOCABULARY, 7, VOCABULARY + 1, 9]])
    rows = [one for n, one in model.named_parameters() if "trainable_tokens" in n]
    assert [tuple(one.shape) for one in rows] == [(2, 32)] * (1 if tied else 2)
    table = model.get_base_model().get_input_embeddings()
    frozen = table.token_adapter.base_layer.weight
    before = frozen.clone()
    model(input_ids=tokens, labels=tokens).loss.backward()
    assert all(one.grad.abs().sum() > 0 for one in rows)
    assert frozen.grad is None
    with torch.no_grad():
        rows[0] += 1
    hidden = table(tokens)
    torch.testing.assert_close(hidden[0, 1], before[VOCABULARY] + 1)
    assert torch.equal(hidden[0, [0, 2, 4]], before[[3, 7, 9]])
    head = (
        model.get_base_model().get_output_embeddings().token_adapter.get_merged_weights(["default"])
    )
    torch.testing.assert_close(head[VOCABULARY], rows[-1][0])
