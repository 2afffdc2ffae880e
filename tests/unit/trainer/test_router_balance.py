"""A balancing loss that the trainer does not know is refused before a GPU is asked for."""

from __future__ import annotations

import json

import pytest

from data_ground import Ground, jsonl, questions
from finetune_trainer.errors import ConfigurationError
from preparation_bench import Bench

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}


@pytest.fixture
def bench(tmp_path, monkeypatch):
    bench = Bench(Ground(tmp_path, monkeypatch))
    bench.dataset(jsonl(questions(20)))
    return bench


def model(bench, family):
    path = bench.model() / "config.json"
    asked = {"model_type": family, "output_router_logits": True, **SIZES}
    path.write_text(json.dumps(json.loads(path.read_bytes()) | asked))


def test_preparation_refuses_a_family_that_defines_it_otherwise(bench):
    model(bench, "jetmoe")
    error = bench.refused(ConfigurationError)
    assert error.reason == "UnsupportedModel"
    assert "output_router_logits" in str(error)
    assert "set it to false there" in str(error)
    bench.prepared(mode="Evaluate", attempt=2)


def test_preparation_takes_a_family_whose_loss_is_known_and_plans_its_memory(bench):
    model(bench, "mixtral")
    summary, _ = bench.prepared()
    assert summary.plan.memory.terms["router"] == 8 * summary.plan.max_tokens_per_device * 4
