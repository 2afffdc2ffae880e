"""Every section of a model card is there and says something."""

from __future__ import annotations

import re

import pytest

from finetune_api.model_export import VerificationStatus
from finetune_trainer.model_card import CardFacts, model_card
from unit.trainer.export_ground import ExportGround

SECTIONS = (
    "Base model",
    "Training data",
    "How it was trained",
    "Results",
    "Training curve",
    "Truncation and supervision",
    "Samples",
    "Prompt format",
    "How to load it",
    "Export",
    "Cost",
    "Intended use and limits",
    "Provenance",
)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> ExportGround:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("card")
        patch.setenv("FINETUNE_CLAIMS_DIR", str(folder / "claims"))
        return ExportGround(folder, method="Model")


def facts(**changed: object) -> CardFacts:
    verification = VerificationStatus(
        max_logit_difference=2e-6, mean_logit_difference=1e-7, samples=4, ended=3
    )
    values = {
        "dtype": "Float32",
        "verification": verification,
        "tolerance": 1e-4,
        "files": {"model.safetensors": "f" * 64},
        "rendered_prompt": "What is ```one```?",
        "history": [[step, 3.0 - step / 100, 1e-4, 1.0] for step in range(100)],
        "samples": [{"prompt": "one plus two", "tuned": "three"}],
    }
    return CardFacts(**(values | changed))


def sections(card: str) -> dict[str, str]:
    parts = re.split(r"^## (.+)$", card, flags=re.MULTILINE)
    return dict(zip(parts[1::2], (text.strip() for text in parts[2::2]), strict=True))


@pytest.mark.parametrize("given", [facts(), CardFacts(**vars(facts(history=(), samples=())))])
def test_every_section_is_present_and_not_empty(ground: ExportGround, given: CardFacts):
    found = sections(model_card(ground.config(), given))
    assert tuple(found) == SECTIONS
    assert all(found.values())


def test_the_card_names_data_checkpoint_and_comparison(ground: ExportGround):
    config = ground.config()
    found = sections(model_card(config, facts()))
    assert config.dataset.digest in found["Training data"]
    assert config.checkpoint.digest in found["Provenance"]
    assert "2e-06" in found["Export"]
    assert "f" * 64 in found["Export"]
    assert "| loss | 2.5 | 1.25 |" in found["Results"]


def test_samples_can_be_switched_off(ground: ExportGround):
    assert "Samples" not in sections(
        model_card(ground.config({"card": {"samples": False}}), facts())
    )


def test_a_prompt_cannot_break_out_of_its_block(ground: ExportGround):
    found = sections(model_card(ground.config(), facts()))
    assert "````text\nWhat is ```one```?\n````" in found["Prompt format"]


def test_the_header_quotes_what_yaml_would_misread(ground: ExportGround):
    spec = {"card": {"license": "no", "languages": ["no"], "tags": ["a: b"]}}
    header = model_card(ground.config(spec), facts()).split("---")[1]
    assert 'license: "no"' in header
    assert 'language: ["no"]' in header
    assert '"a: b"' in header
