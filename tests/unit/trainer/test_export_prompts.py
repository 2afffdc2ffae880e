"""An exported model is spoken to as in training: same ids, same end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from finetune_api.finetune_experiment import ExperimentSpec
from finetune_api.text_settings import Prompt, Template
from finetune_trainer.artifact_files import generation_config, tokenizer_files
from finetune_trainer.encode import Encoder
from finetune_trainer.export_prompts import (
    exported_prompting,
    questions,
    trained_encoder,
)
from finetune_trainer.export_sources import ExportSources
from finetune_trainer.prompts import stop_ids
from finetune_trainer.run_tokenizer import run_tokenizer
from finetune_trainer.template_choice import chosen_template
from finetune_trainer.text_tokenizer import text_tokenizer
from finetune_trainer.truncation import fitted_prompt
from unit.trainer.export_ground import ExportGround

EXCHANGE = [
    {"role": "system", "content": "short"},
    {"role": "user", "content": "what is one"},
    {"role": "assistant", "content": "two"},
]
OWN_TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExportGround:
    monkeypatch.setenv("FINETUNE_CLAIMS_DIR", str(tmp_path / "claims"))
    return ExportGround(tmp_path, method="Model")


def config_and_sources(ground: ExportGround, template: str, spec: dict | None = None):
    if template == "Model":
        (ground.base / "chat_template.jinja").write_text(OWN_TEMPLATE)
    tokenizer = text_tokenizer(ground.base)
    chosen = chosen_template(
        Prompt(template=Template(template)), tokenizer.chat_template, tokenizer.special
    )
    sources = ExportSources(
        checkpoint=ground.base,
        base=ground.base,
        stop=stop_ids(Encoder(tokenizer, chosen)),
        template={"name": chosen.name, "source": chosen.source},
    )
    return ground.config(spec), sources


@pytest.mark.parametrize("template", ["Raw", "ChatML", "Zephyr", "Markers", "Model"])
def test_the_exported_tokenizer_renders_and_encodes_like_training(
    ground: ExportGround, tmp_path: Path, template: str
):
    _, sources = config_and_sources(ground, template)
    encoder = trained_encoder(sources)
    exported = tmp_path / "exported"
    exported.mkdir()
    for name, content in tokenizer_files(ground.base, exported_prompting(sources).chat_template):
        (exported / name).write_bytes(content)
    tokenizer = AutoTokenizer.from_pretrained(exported)
    for messages, prompt in ((EXCHANGE, False), (EXCHANGE[:2], True)):
        text = encoder.template.render(messages, prompt=prompt)
        ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=prompt, return_dict=False
        )
        assert ids == encoder.tokenizer.ids(text)


def test_training_evaluation_export_and_library_give_one_conversation_the_same_ids(
    ground: ExportGround, tmp_path: Path
):
    spec = ExperimentSpec.model_validate_json(
        json.dumps(
            {
                "model": {"volumeClaim": {"claimName": "results"}},
                "dataset": {"name": "faq"},
                "tokenizer": {"addMarkerTokens": True, "additionalTokens": ["what is"]},
                "prompt": {"template": "Markers", "markers": {"prompt": "<|é|>"}},
            }
        )
    )
    used = run_tokenizer(spec, ground.base, tmp_path)
    folder, exported = tmp_path / "tokenizer", tmp_path / "exported"
    for target in (folder, exported):
        target.mkdir()
    for name, content in used.files():
        (folder / name).write_bytes(content)
    template = chosen_template(spec.prompt, None, used.tokenizer.special)
    encoder = Encoder(used.tokenizer, template)
    sources = ExportSources(
        checkpoint=ground.base,
        base=ground.base,
        template={"name": template.name, "source": template.source},
        tokenizer=folder,
    )
    (trained,) = encoder.encoded(encoder.renderings(EXCHANGE))
    assert len(used.new) == 4
    assert {one.id for one in used.new} <= set(trained.ids.tolist())
    for name, content in tokenizer_files(folder, exported_prompting(sources).chat_template):
        (exported / name).write_bytes(content)
    library = AutoTokenizer.from_pretrained(exported)
    assert library.apply_chat_template(EXCHANGE, return_dict=False) == trained.ids.tolist()
    asked = library.apply_chat_template(EXCHANGE[:2], add_generation_prompt=True, return_dict=False)
    assert asked == fitted_prompt(encoder, EXCHANGE[:2], 100)
    assert asked == trained_encoder(sources).tokenizer.ids(encoder.context(EXCHANGE[:2]))
    assert asked == trained.ids[: len(asked)].tolist()


def test_generation_ends_where_training_ended_answers(ground: ExportGround):
    _, sources = config_and_sources(ground, "Raw")
    ends = exported_prompting(sources).end_tokens
    assert ends == [AutoTokenizer.from_pretrained(ground.base).eos_token_id]
    assert json.loads(generation_config(ground.base, ends))["eos_token_id"] == ends[0]


def test_own_prompts_are_asked_the_way_training_asked(ground: ExportGround):
    spec = {"verification": {"prompts": ["what is two"]}}
    config, sources = config_and_sources(ground, "ChatML", spec)
    tokenizer = AutoTokenizer.from_pretrained(ground.base)
    asked = questions(config, sources)
    text = "<|im_start|>user\nwhat is two<|im_end|>\n<|im_start|>assistant\n"
    assert asked.samples == [tokenizer(text, add_special_tokens=False)["input_ids"]]
    assert len(asked.prompts) == 10
