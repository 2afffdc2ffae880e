"""Every setting of tokenizer and prompt changes what preparation writes, or is refused."""

import json
import re

import numpy as np
import pytest
from transformers import AutoTokenizer

from data_ground import CHAT, Ground, jsonl, questions, results
from finetune_trainer.errors import ConfigurationError, DataError
from finetune_trainer.new_tokens import read_new_tokens
from finetune_trainer.text_tokenizer import text_tokenizer
from finetune_trainer.token_cache import fetch_prepared, open_cache
from preparation_bench import HOME, Bench


@pytest.fixture
def bench(tmp_path, monkeypatch):
    bench = Bench(Ground(tmp_path, monkeypatch))
    bench.model()
    bench.dataset(jsonl(questions(40)))
    return bench


class Written:
    """What a preparation wrote, as its readers see it."""

    def __init__(self, bench, folder, **spec):
        self.summary, self.report = bench.prepared(**spec)
        uri = self.report.artifacts[0].uri
        store = results().child(f"{HOME}/{uri.rpartition('/')[2]}")
        self.folder = fetch_prepared(store, self.report.artifacts[0].digest, folder)
        self.tokenizer = text_tokenizer(self.folder / "tokenizer")
        self.cache = open_cache(self.folder / "tokens/train")
        self.template = json.loads((self.folder / "template.json").read_text())

    def text(self, number=0, bit=0):
        start, end = self.cache.offsets[number : number + 2]
        ids, flags = self.cache.tokens[start:end], self.cache.flags[start:end]
        chosen = ids[flags & bit > 0] if bit else ids
        return self.tokenizer.decode(chosen.tolist())


@pytest.fixture
def written(bench, tmp_path):
    copies = iter(range(100))

    def written(**spec):
        return Written(bench, tmp_path / f"copy{next(copies)}", **spec)

    return written


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


def test_markers_become_tokens_on_demand_and_their_pieces_are_told(written):
    spec = {"prompt": {"template": "Markers", "markers": {"prompt": "<|ask|>", "answer": "=>"}}}
    plain = written(**spec)
    assert not (plain.folder / "new_tokens.json").exists()
    found = written(**spec, tokenizer={"addMarkerTokens": True})
    assert found.text() == plain.text()
    assert len(found.cache.tokens) < len(plain.cache.tokens)
    new = read_new_tokens(found.folder)
    assert [one.token for one in new] == ["<|ask|>", "=>"]
    assert [plain.tokenizer.decode(list(one.pieces)) for one in new] == ["<|ask|>", "=>"]
    assert found.template["stops"] == ["<|system|>", "<|ask|>", "=>"]
    stops = json.loads((found.folder / "prompts.json").read_text())["stop"]
    assert {one.id for one in new} < set(stops)
    content = found.tokenizer.decode(found.cache.tokens[found.cache.flags & 2 > 0].tolist())
    assert "=>" not in content


def test_new_tokens_are_one_id_each_and_saved_with_the_tokenizer(bench, written):
    plain = written()
    found = written(tokenizer={"additionalTokens": ["question 1", "Øre\n"]})
    ids = [one.id for one in read_new_tokens(found.folder)]
    size = plain.tokenizer.backend.get_vocab_size()
    assert ids == [size, size + 1]
    assert ids[0] in found.cache.tokens
    assert ids[0] not in plain.cache.tokens
    needed = json.loads((found.folder / "new_tokens.json").read_text())["vocabulary"]
    assert needed == max(400, size + 2)
    settings = json.loads((found.folder / "tokenizer/tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    (found.folder / "tokenizer/tokenizer_config.json").write_text(json.dumps(settings))
    library = AutoTokenizer.from_pretrained(found.folder / "tokenizer")
    text = "a question 1 Øre\n<|end|>"
    assert library(text, add_special_tokens=False).input_ids == found.tokenizer.ids(text)
    assert ids[0] in library(text).input_ids


def test_a_new_token_that_the_tokenizer_cannot_write_back_is_refused(bench):
    error = bench.refused(ConfigurationError, tokenizer={"additionalTokens": ["Øre"]})
    assert (error.reason, "cannot write Øre back" in str(error)) == ("InvalidSpec", True)


def test_a_padded_vocabulary_keeps_its_size_when_tokens_come(bench, written):
    path = bench.ground.claims / "models/tiny/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 1024}))
    found = written(tokenizer={"additionalTokens": ["question 1"]})
    assert json.loads((found.folder / "new_tokens.json").read_text())["vocabulary"] == 1024


def test_options_of_the_loader_act_and_are_saved(bench, written):
    settings = bench.ground.claims / "models/tiny/tokenizer_config.json"
    known = json.loads(settings.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    settings.write_text(json.dumps(known))
    assert written(prompt={"template": "Raw"}).text().endswith("<|end|>")
    found = written(
        prompt={"template": "Raw"}, tokenizer={"options": {"eos_token": "<|assistant|>"}}
    )
    assert found.text().endswith("<|assistant|>")
    assert found.tokenizer.special.end == "<|assistant|>"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"trust_remote_code": "true"}, "InvalidSpec"),
        ({"tokenizer_file": "/etc/passwd"}, "InvalidSpec"),
        ({"token": "x"}, "InvalidSpec"),
        ({"cache_dir": "/tmp"}, "InvalidSpec"),
        ({"chat_template": "x"}, "InvalidSpec"),
        ({"padding_side": "left"}, "DeadSetting"),
        ({"nonsense": "1"}, "DeadSetting"),
        ({"eos_token": "7"}, "InvalidSpec"),
    ],
    ids=str,
)
def test_options_that_load_code_or_change_nothing_are_refused(bench, options, reason):
    settings = bench.ground.claims / "models/tiny/tokenizer_config.json"
    known = json.loads(settings.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    settings.write_text(json.dumps(known))
    error = bench.refused(ConfigurationError, tokenizer={"options": options})
    assert error.reason == reason
    assert "spec.tokenizer.options: " in str(error)


def test_another_tokenizer_is_fetched_by_name(bench, written, monkeypatch, tmp_path):
    from data_ground import model_folder

    other = model_folder(tmp_path / "other", template="{{ messages[-1].content }}<|end|>")
    asked = []

    def folder(name, revision, hub):
        asked.append((name, revision))
        return other

    monkeypatch.setattr("finetune_trainer.run_tokenizer.hub_tokenizer_folder", folder)
    found = written(tokenizer={"name": "acme/tok", "revision": "v1"}, prompt={"template": "Raw"})
    assert asked == [("acme/tok", "v1")]
    assert found.tokenizer.chat_template == "{{ messages[-1].content }}<|end|>"


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
