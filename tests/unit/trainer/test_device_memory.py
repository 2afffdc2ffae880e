"""On its device a run knows what it should take, and what would fit where it does not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig

from finetune_trainer.device_memory import device_estimate, out_of_memory
from run_configs import run_config
from toy_llama import toy_llama_folder

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def gpu(monkeypatch):
    """Let torch tell of a GPU whose memory the test sets, in GB."""

    def known(gigabytes):
        facts = SimpleNamespace(total_memory=int(gigabytes * 1e9))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: facts)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: int(gigabytes * 1e9))

    return known


@pytest.fixture
def large(tmp_path):
    """The configuration of an 8B model, without weights."""
    AutoConfig.for_model(
        "llama",
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128256,
        tie_word_embeddings=False,
    ).save_pretrained(tmp_path)
    return tmp_path


PLAN = {
    "computeDtype": "BFloat16",
    "maxTokensPerDevice": 8192,
    "maxLength": 4096,
    "rank": 16,
    "strategy": "SingleProcess",
}


@pytest.mark.parametrize(
    ("gigabytes", "layers"), [(140, 0), (80, 0), (48, 15), (16, 32)], ids="{0} GB".format
)
def test_the_device_decides_on_recomputation_where_the_plan_leaves_it_open(
    gpu, large, gigabytes, layers
):
    gpu(gigabytes)
    found = device_estimate(run_config(plan=PLAN), large, GPU)
    assert found.settings.checkpointed == layers
    assert (gigabytes == 16) != found.fits(gigabytes * 10**9)


def test_a_planned_number_of_layers_stands_whatever_the_device(gpu, large):
    gpu(140)
    run = run_config(plan=PLAN | {"checkpointedLayers": 7})
    assert device_estimate(run, large, GPU).settings.checkpointed == 7


def test_on_a_cpu_nothing_is_recomputed_unasked(tmp_path):
    folder = toy_llama_folder(tmp_path / "toy")
    assert device_estimate(run_config(), folder, CPU).settings.checkpointed == 0


def test_exhausted_memory_is_told_with_plan_peak_and_settings_that_fit(gpu, large):
    gpu(24)
    run = run_config(plan=PLAN | {"checkpointedLayers": 0})
    failed = out_of_memory(run, large, GPU)
    assert failed.exit_code == 20
    assert "59.2 GB planned" in failed.message
    assert "24.0 GB allocated" in failed.message
    changes = [one.rpartition(" (")[0] for one in failed.remedy.split("; ")]
    assert changes == [
        "model.quantization NF4",
        "tokenizer.maxLength 2048",
        "compute.strategy FSDP on 2 GPUs",
    ]
