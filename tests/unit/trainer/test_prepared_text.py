"""Every setting of prompt and length changes what preparation writes, or is refused."""

import re

import numpy as np
import pytest

from data_ground import CHAT, jsonl, questions
from finetune_trainer.errors import ConfigurationError, DataError


def end_of(text):
    return text.rpartition("answer ")[2]


@pytest.mark.parametrize(
    ("prompt", "start", "end"),
    [
        ({}, "<|user|>question ", "<|end|>\n"),
        ({"template": "ChatML"}, "<|im_start|>user\nquestion ", "<|im_end|>\n"),
        ({"template": "Zephyr"}, "<|user|>\nquestion ", "<|end|>\n"),
        ({"template": "Markers"}, "<|prompt|>question ", "<|end|>"),
        ({"template": "Raw"}, "question ", "<|end|>"),
        ({"template": "Raw", "beginToken": "Always"}, "<|begin|>question ", "<|end|>"),
        ({"template": "Raw", "endTokenAfter": []}, "question ", ""),
        ({"template": "Markers", "markers": {"prompt": "<|é|>"}}, "<|é|>question ", "<|end|>"),
        ({"system": "be brief"}, "<|system|>be brief<|end|>\n<|user|>question ", "<|end|>\n"),
    ],
)  # fmt: skip
def test_the_prompt_decides_how_a_record_reads(written, prompt, start, end):
    text = written(prompt=prompt).text()
    assert text.startswith(start)
    assert end_of(text).lstrip("0123456789") == end


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ({"trainOnRoles": ["User"]}, "question N?<|end|>"),
        ({"trainOnRoles": ["User", "Assistant"]}, "question N?<|end|>answer N<|end|>"),
        ({"trainOnRoles": ["User", "Assistant"], "trainOnTurns": "Last"}, "answer N<|end|>"),
        ({"trainOnRoles": ["System", "User", "Assistant", "Tool"]},
         "<|user|>question N?<|end|>\n<|assistant|>answer N<|end|>\n"),
    ],
)  # fmt: skip
def test_the_chosen_roles_and_turns_are_supervised(written, prompt, expected):
    text = written(prompt=prompt).text(bit=1)
    assert re.sub(r"[0-9]+", "N", text) == expected


def test_a_custom_template_comes_from_its_config_map(written, tmp_path, monkeypatch):
    path = tmp_path / "template.jinja"
    path.write_text(CHAT.replace("<|", "<<").replace("|>", ">>").replace("<<end>>", "<|end|>"))
    monkeypatch.setenv("FINETUNE_TEMPLATE", str(path))
    found = written(prompt={"template": "Custom", "templateRef": {"name": "t", "key": "t.jinja"}})
    assert found.text().startswith("<<user>>question ")
    assert found.template["source"] == path.read_text()
    assert found.summary.plan.template == "Custom"


def test_options_of_the_template_act_and_stay_in_the_written_template(bench, written):
    bench.model(template="{% if brief %}Brief. {% endif %}" + CHAT)
    assert written().text().startswith("<|user|>")
    found = written(prompt={"templateOptions": {"brief": "true"}})
    assert found.text().startswith("Brief. <|user|>")
    assert "set brief = true" in found.template["source"]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"tokenizer": {"additionalTokens": ["<|end|>"]}}, "additionalTokens"),
        ({"tokenizer": {"additionalTokens": ["x1", "x1"]}}, "additionalTokens"),
        ({"tokenizer": {"addMarkerTokens": True},
          "prompt": {"template": "Markers", "markers": {
              "system": "<|system|>", "prompt": "<|user|>", "answer": "<|assistant|>"}}},
         "addMarkerTokens"),
        ({"tokenizer": {"maxLength": 64, "maxPromptLength": 64}}, "maxPromptLength"),
        ({"tokenizer": {"maxLength": 64, "maxAnswerLength": 100}}, "maxAnswerLength"),
        ({"tokenizer": {"maxLength": 64, "maxLengthQuantile": 0.5}}, "maxLengthQuantile"),
        ({"prompt": {"endTokenAfter": ["Answer"]}}, "endTokenAfter"),
        ({"prompt": {"templateOptions": {"x": "1"}}}, "templateOptions"),
    ],
)  # fmt: skip
def test_a_setting_without_effect_is_refused_by_name(bench, spec, field):
    error = bench.refused(ConfigurationError, **spec)
    assert (error.reason, f".{field}: " in str(error)) == ("DeadSetting", True)


def documents(bench, count=20, words=60):
    bench.dataset(jsonl({"text": f"document {n} " + "and so on " * words} for n in range(count)))


def test_documents_become_windows_and_lose_nothing(bench, written):
    documents(bench)
    found = written(problemType="Pretraining", tokenizer={"maxLength": 64})
    starts = found.cache.offsets[:-1]
    rows = np.array(found.cache.rows)
    assert int(found.cache.lengths.max()) == 64
    assert found.summary.truncation.lost_tokens == 0
    whole = written(problemType="Pretraining", tokenizer={"maxLength": 256})
    assert int(found.cache.supervised.sum()) == int(whole.cache.supervised.sum())
    assert len(rows) > len(whole.cache.rows)
    first = starts[1:][rows[1:] == rows[:-1]]
    assert (found.cache.tokens[first] == found.cache.tokens[first - 1]).all()


@pytest.mark.parametrize(
    ("overflow", "samples", "lost"), [("Truncate", 19, True), ("Drop", 0, True), ("Fail", 0, True)]
)
def test_documents_above_the_limit_follow_the_policy(bench, written, overflow, samples, lost):
    documents(bench)
    spec = {"problemType": "Pretraining", "tokenizer": {"maxLength": 64, "overflow": overflow}}
    if samples:
        found = written(**spec)
        assert (len(found.cache), found.summary.truncation.lost_tokens > 0) == (samples, lost)
    else:
        reason = {"Drop": "NothingSupervised", "Fail": "TooLong"}[overflow]
        assert bench.refused(DataError, **spec).reason == reason


@pytest.mark.parametrize(
    "spec",
    [
        {"prompt": {"template": "ChatML"}},
        {"prompt": {"system": "be brief"}},
        {"prompt": {"trainOnTurns": "Last"}},
        {"prompt": {"trainOnRoles": ["User"]}},
        {"prompt": {"chainSamples": "EveryRow"}},
        {"prompt": {"template": "Raw", "endTokenAfter": ["Prompt"]}},
        {"tokenizer": {"maxPromptLength": 32}},
        {"tokenizer": {"maxTruncatedShare": 0.5}},
        {"tokenizer": {"maxAnswerLength": 32}},
    ],
    ids=str,
)
def test_settings_of_conversations_are_refused_for_documents(bench, spec):
    documents(bench)
    block, name = next(iter(spec)), list(next(iter(spec.values())))[-1]
    error = bench.refused(ConfigurationError, problemType="Pretraining", **spec)
    assert (error.reason, f"spec.{block}.{name}: " in str(error)) == ("DeadSetting", True)


def test_the_end_token_of_documents_can_be_left_out(bench, written):
    documents(bench, words=3)
    assert written(problemType="Pretraining").text().endswith("on <|end|>")
    prompt = {"template": "Raw", "endTokenAfter": []}
    assert written(problemType="Pretraining", prompt=prompt).text().endswith("on ")


def test_a_dataset_of_the_wrong_type_is_refused(bench):
    assert bench.refused(DataError, problemType="Pretraining").reason == "IncompatibleDataset"
    documents(bench)
    error = bench.refused(DataError)
    assert (error.reason, error.exit_code) == ("IncompatibleDataset", 11)


def test_the_automatic_limit_follows_its_quantile(bench, written):
    rows = [*questions(30), *({"prompt": f"q{n}", "answer": "a " * 60} for n in range(10))]
    bench.dataset(jsonl(rows), split={"validation": 0.0})
    plans = [written(tokenizer={"maxLengthQuantile": share}).summary.plan for share in (0.5, 1.0)]
    assert [plan.max_length for plan in plans] == [64, 128]


def test_limits_of_prompt_and_answer_cut_and_are_counted(bench, written):
    rows = [*questions(30), {"prompt": "q " * 60, "answer": "a " * 60}]
    bench.dataset(jsonl(rows), split={"validation": 0.0})
    free = written().summary.truncation
    cut = written(tokenizer={"maxPromptLength": 20, "maxAnswerLength": 10}).summary.truncation
    assert (cut.samples, cut.answers) == (1, 1)
    assert cut.lost_tokens > free.lost_tokens


def test_rewritten_turns_are_told_with_their_multiplication(bench, written):
    bench.model(
        template="{% for m in messages %}<|{{ m.role }}|>{{ m.content if loop.last or m.role == "
        "'user' else '' }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    turns = [
        {"role": ("user", "assistant")[n % 2], "content": f"{'qa'[n % 2]}{n}"} for n in range(4)
    ]
    chats = [{"messages": [{**turns[0], "content": f"q{n}"}, *turns[1:]]} for n in range(20)]
    bench.dataset(jsonl(chats), split={"validation": 0.0})
    found = written()
    assert len(found.cache) == 40
    told = [one.message for one in found.report.warnings if one.reason == "TurnsRewritten"]
    assert "20 more than there are records" in told[0]
