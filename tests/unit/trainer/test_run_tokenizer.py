"""Every setting of the tokenizer changes ids or files, or is refused."""

import json

import pytest
from transformers import AutoTokenizer

from data_ground import RESULTS, reporter, results
from finetune_api.experiment_start import Start
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.new_tokens import read_new_tokens
from finetune_trainer.prepare import run
from finetune_trainer.store import write_manifest
from finetune_trainer.text_tokenizer import text_tokenizer
from finetune_trainer.token_cache import fetch_prepared, open_cache
from preparation_bench import HOME


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


def start_from(bench, kind, handover, tokens):
    """Return where a run starts that takes up a checkpoint whose tokenizer had grown."""
    return start_from_file(kind, handover, json.dumps({"version": 1, "tokens": tokens}).encode())


def start_from_file(kind, handover, new_tokens, name="parent"):
    store = results().child(f"{name}/step-1")
    files = [
        store.write("new_tokens.json", new_tokens),
        store.write("adapter_config.json", json.dumps({"r": 16, "lora_alpha": 32.0}).encode()),
    ]
    digest = write_manifest(store, "checkpoint/v1", files)
    ancestor = {"experiment": name, "uid": "p", "step": 1, "uri": store.uri, "digest": digest}
    ancestor |= {"kind": kind, "handover": handover, "location": RESULTS}
    base = {"volumeClaim": {"claimName": "models", "path": "tiny"}}
    return Start.model_validate_json(json.dumps({"base": base, "ancestors": [ancestor]}))


def prepared_from(bench, start, tmp_path, **spec):
    config = bench.config(**spec).model_copy(update={"start": start})
    report = reporter(config)
    run(config, report)
    uri = report.artifacts[0].uri
    store = results().child(f"{HOME}/{uri.rpartition('/')[2]}")
    return fetch_prepared(store, report.artifacts[0].digest, tmp_path / uri.rpartition("/")[2])


@pytest.mark.parametrize(
    ("kind", "handover", "rows_to_make"),
    [("Adapter", "Continue", 2), ("Adapter", "Merge", 1), ("Model", "Continue", 1)],
)
def test_a_child_knows_the_tokens_of_its_parent_and_makes_no_row_twice(
    bench, written, tmp_path, kind, handover, rows_to_make
):
    size = written().tokenizer.backend.get_vocab_size()
    known = {"token": "question 1", "id": size, "pieces": [1, 2], "special": False}
    start = start_from(bench, kind, handover, [known])
    own = {"tokenizer": {"additionalTokens": ["answer 2"]}}
    folder = prepared_from(bench, start, tmp_path, **own)
    new = read_new_tokens(folder)
    assert [one.id for one in new] == [size, size + 1][-rows_to_make:]
    tokenizer = text_tokenizer(folder / "tokenizer")
    assert tokenizer.ids("question 1")[0] == size
    assert size in open_cache(folder / "tokens/train").tokens
    repeated = {"tokenizer": {"additionalTokens": ["question 1"]}}
    with pytest.raises(ConfigurationError, match="question 1 exists already"):
        prepared_from(bench, start, tmp_path, **repeated)


def test_whole_weights_bring_the_tokens_of_all_that_was_merged_into_them(bench, written, tmp_path):
    size = written().tokenizer.backend.get_vocab_size()
    known = {"token": "question 1", "id": size, "pieces": [1, 2], "special": False}
    merging = start_from(bench, "Adapter", "Merge", [known])
    own = {"tokenizer": {"additionalTokens": ["answer 2"]}, "adapter": {"type": "None"}}
    # A run that trains everything, and one more without tokens of its own.
    child = prepared_from(bench, merging, tmp_path, **own)
    start = start_from_file("Model", "Continue", (child / "new_tokens.json").read_bytes(), "child")
    silent = prepared_from(bench, start, tmp_path / "silent", adapter={"type": "None"})
    start = start_from_file("Model", "Continue", (silent / "new_tokens.json").read_bytes(), "last")
    for number, folder in enumerate((silent, prepared_from(bench, start, tmp_path / "last"))):
        assert read_new_tokens(folder) == [], number
        tokenizer = text_tokenizer(folder / "tokenizer")
        assert [tokenizer.ids(text)[0] for text in ("question 1", "answer 2")] == [size, size + 1]


def test_a_child_whose_tokenizer_gives_a_parents_token_another_id_is_refused(
    bench, written, tmp_path
):
    known = {"token": "question 1", "id": 399, "pieces": [1, 2], "special": False}
    start = start_from(bench, "Model", "Continue", [known])
    with pytest.raises(ConfigurationError, match="get other ids") as refused:
        prepared_from(bench, start, tmp_path)
    assert refused.value.reason == "WeightsMismatch"
