"""A quantised base: what becomes small, what it computes, and that adapters train on it."""

from __future__ import annotations

import bitsandbytes as bnb
import pytest
import torch
from peft.tuners.lora.bnb import Linear4bit, Linear8bitLt
from transformers import AutoModelForCausalLM

from finetune_api.model_settings import Adapter, AdapterType, Model, Quantization
from finetune_trainer.adapter import Trained, trainable_model
from finetune_trainer.counter_dropout import DRAWS
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.fused_lora import FusedForward
from finetune_trainer.quantisation import Quantiser, quantise, quantiser
from toy_llama import toy_llama_folder

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
CPU = torch.device("cpu")
TOKENS = torch.arange(2, 20)[None]
KINDS = [Quantization.NF4, Quantization.FP4, Quantization.INT8]


def base(folder, dtype=torch.float32):
    path = folder / "toy"
    if not path.exists():
        toy_llama_folder(path)
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype)


def quantised(folder, kind, *, whole=(), dtype=torch.float32, **settings):
    model = base(folder, dtype)
    quantise(model, Quantiser(kind, compute=dtype, **settings), CPU, whole)
    return model


def adapted(model, **adapter):
    return trainable_model(model, Trained(Adapter(**adapter), rank=4, alpha=8.0, seed=5))


@pytest.mark.parametrize("kind", KINDS)
def test_linear_layers_of_the_blocks_shrink_and_all_else_keeps_its_type(tmp_path, kind):
    model = quantised(tmp_path, kind, dtype=torch.bfloat16)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            assert (module.weight.dtype is torch.bfloat16) == (name == "lm_head"), name
    small = model.model.layers[0].mlp.up_proj.weight
    assert small.element_size() * small.numel() == (48 * 32 if kind is Quantization.INT8 else 768)
    assert model.model.embed_tokens.weight.dtype is torch.bfloat16
    assert model.model.norm.weight.dtype is torch.bfloat16


@pytest.mark.parametrize("kind", KINDS)
def test_the_weight_that_products_see_is_the_one_that_a_merge_will_use(tmp_path, kind):
    plain = base(tmp_path).model.layers[1].self_attn.o_proj
    how = Quantiser(kind, threshold=0.0)
    layer = how.layer(plain, CPU)
    whole = how.seen(plain.weight.data)
    x = torch.randn(6, 32)
    tolerance = 2e-2 if kind is Quantization.INT8 else 1e-5
    torch.testing.assert_close(layer(x), x @ whole.T, rtol=tolerance, atol=tolerance)
    assert not torch.equal(whole, plain.weight)
    torch.testing.assert_close(whole, plain.weight, rtol=0.3, atol=0.02)


def test_double_quantisation_threshold_and_kind_come_from_the_settings():
    settings = Model(name="lab/toy", double_quantization=False)
    made = quantiser(Quantization.NF4, settings, torch.bfloat16, torch.bfloat16)
    assert made == Quantiser(
        Quantization.NF4, False, 6.0, compute=torch.bfloat16, storage=torch.bfloat16
    )
    settings = Model(name="lab/toy", quantization=Quantization.INT8, int8_threshold=2.5)
    made = quantiser(Quantization.INT8, settings, torch.float32)
    assert made is not None
    assert made.threshold == 2.5
    assert quantiser(Quantization.NONE, settings, torch.float32) is None


def test_double_quantisation_changes_the_constants_and_the_threshold_the_products(tmp_path):
    plain = base(tmp_path).model.layers[0].mlp.down_proj
    double, single = (
        Quantiser(Quantization.NF4, double=one).layer(plain, CPU) for one in (True, False)
    )
    assert double.quant_state.nested
    assert not single.quant_state.nested
    x = torch.randn(4, 48)
    x[:, 3] *= 30
    wide, narrow = (
        Quantiser(Quantization.INT8, threshold=one).layer(plain, CPU)(x) for one in (0.0, 6.0)
    )
    # In training, bitsandbytes takes dequantised weights on CPUs: the threshold acts on GPUs there.
    exact = x @ plain.weight.T
    assert (narrow - exact).abs().max() < (wide - exact).abs().max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", [AdapterType.LORA, AdapterType.DORA])
def test_adapters_train_on_a_quantised_base_which_stays_as_it_is(tmp_path, kind, method):
    model = adapted(quantised(tmp_path, kind), type=method, dropout=0.1)
    layers = [one for one in model.modules() if isinstance(one, (Linear4bit, Linear8bitLt))]
    fused = [one for one in layers if isinstance(one, FusedForward)]
    assert len(layers) == 14
    assert len(fused) == (14 if method is AdapterType.LORA and kind is not Quantization.INT8 else 0)
    codes = [one.base_layer.weight.detach().clone() for one in layers]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for step in range(12):
        DRAWS.set(1, step, 0)
        loss = model(input_ids=TOKENS, labels=TOKENS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3
    assert all(torch.equal(a, b.base_layer.weight) for a, b in zip(codes, layers, strict=True))


@pytest.mark.parametrize("storage", [torch.uint8, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_fused_product_on_4_bits_is_that_of_peft(tmp_path, dropout, storage):
    outcomes = []
    for fused in (True, False):
        model = adapted(quantised(tmp_path, Quantization.NF4, storage=storage), dropout=dropout)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1, generator=torch.manual_seed(4))
        for module in model.modules():
            if isinstance(module, FusedForward) and not fused:
                module.__class__ = Linear4bit
        DRAWS.set(1, 2, 3)
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        outcomes.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    for name, gradient in outcomes[0].items():
        torch.testing.assert_close(gradient, outcomes[1][name], rtol=1e-4, atol=1e-6)


def test_evaluating_on_a_cpu_leaves_a_4_bit_base_trainable(tmp_path):
    model = adapted(quantised(tmp_path, Quantization.NF4), type=AdapterType.DORA)
    with torch.no_grad():
        before = model.eval()(input_ids=TOKENS).logits
    model.train()(input_ids=TOKENS, labels=TOKENS).loss.backward()
    with torch.no_grad():
        assert torch.equal(model.eval()(input_ids=TOKENS).logits, before)


def test_modules_trained_in_full_are_left_whole(tmp_path):
    model = quantised(tmp_path, Quantization.NF4, whole=["model.layers.0.mlp"])
    assert type(model.model.layers[0].mlp.up_proj) is torch.nn.Linear
    assert isinstance(model.model.layers[1].mlp.up_proj, bnb.nn.Linear4bit)


def test_a_model_without_plain_linear_layers_is_refused(tmp_path):
    model = quantised(tmp_path, Quantization.NF4)
    with pytest.raises(ConfigurationError, match=r"spec\.model\.quantization"):
        quantise(model, Quantiser(Quantization.NF4), CPU)
