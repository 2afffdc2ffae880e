"""Patterns that match nothing are refused before a run has a GPU."""

from __future__ import annotations

import pytest

from finetune_api.finetune_experiment import ExperimentSpec
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.name_checks import check_names
from toy_llama import toy_llama_folder

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

FULL = {"type": "None"}
FINE = {
    "a group": {"adapter": FULL, "training": {"parameterGroups": [{"match": ["head"]}]}},
    "frozen embeddings": {"adapter": FULL, "training": {"freeze": ["embeddings"]}},
    "targets": {"adapter": {"targetModules": ["q_proj"]}},
    "an adapter's part": {"training": {"parameterGroups": [{"match": ["lora_B"]}]}},
}
WRONG = {
    "a group": {"adapter": FULL, "training": {"parameterGroups": [{"match": ["attn.nothing"]}]}},
    "a frozen part": {"adapter": FULL, "training": {"freeze": ["embedings"]}},
    "targets": {"adapter": {"targetModules": ["query"]}},
    "a head that no adapter trains": {"training": {"parameterGroups": [{"match": ["head"]}]}},
    "a group of frozen parameters": {
        "adapter": FULL,
        "training": {"freeze": ["head"], "parameterGroups": [{"match": ["head"]}]},
    },
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return toy_llama_folder(tmp_path_factory.mktemp("names") / "toy")


def spec(blocks):
    values = {
        "model": {"huggingFace": {"repository": "tiny/model"}},
        "dataset": {"name": "chats"},
        "storage": {"volumeClaim": {"claimName": "results"}},
    }
    return ExperimentSpec.model_validate(values | blocks, strict=False)


@pytest.mark.parametrize("blocks", FINE.values(), ids=FINE)
def test_a_pattern_with_a_match_is_accepted(toy, blocks):
    check_names(spec(blocks), toy, 4)


@pytest.mark.parametrize("blocks", WRONG.values(), ids=WRONG)
def test_a_pattern_without_a_match_is_refused(toy, blocks):
    with pytest.raises(ConfigurationError) as refused:
        check_names(spec(blocks), toy, 4)
    assert refused.value.reason == "NoMatchingParameters"
