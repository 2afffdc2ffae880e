"""Runs of a namespace tokenise equal records once, and nobody else's."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from data_ground import trained_tokenizer
from finetune_trainer.chat_template import ChatTemplate, SpecialTokens
from finetune_trainer.encode import Encoder
from finetune_trainer.prepared_samples import SplitSource, spooled_samples
from finetune_trainer.snapshot import Rows
from finetune_trainer.text_tokenizer import TextTokenizer
from finetune_trainer.token_spool import TokenSpool
from sharing_runs import UID


def test_a_second_run_tokenises_nothing_and_writes_the_same_bytes(anywhere, caplog):
    caplog.set_level(logging.INFO, "finetune_trainer")
    tokenised, files, plan = anywhere.prepared(1)
    assert tokenised == 60
    assert anywhere.encoded(1) == ["encoded-1-1-train", "encoded-1-1-validation"]
    again, same, plan_again = anywhere.prepared(2)
    assert again == 0
    assert same == files
    assert plan_again.digest == plan.digest
    assert anywhere.encoded(2) == []
    assert "train: tokenised 57 of 57 records" in caplog.messages
    place = f"run-1-{UID.format(1)}/encoded-1-1-train"
    assert f"train: tokenised 0 of 57 records, encoded by {place}" in caplog.messages


def test_a_shared_split_calls_no_encoder(runs, monkeypatch):
    runs.prepared(1)
    monkeypatch.setattr(Encoder, "encoded", lambda *_: pytest.fail("a record was tokenised"))
    assert runs.prepared(2)[0] == 0


@pytest.mark.parametrize(
    "spec",
    [
        {"tokenizer": {"maxLength": 24}},
        {"tokenizer": {"maxLength": 24, "overflow": "Drop", "maxTruncatedShare": 1.0}},
        {"training": {"learningRate": 3e-4, "globalBatchSize": 8}},
        {"mode": "Evaluate"},
        {"evaluation": {"generateSamples": 3}},
    ],
    ids=str,
)
def test_runs_that_differ_behind_the_encoding_share_it(runs, spec):
    runs.prepared(1)
    tokenised, files, plan = runs.prepared(2, **spec)
    assert tokenised == 0
    fresh, expected, plan_expected = runs.prepared(3, "other", **spec)
    assert fresh > 0
    assert files == expected
    assert plan.digest == plan_expected.digest


@pytest.mark.parametrize(
    "spec",
    [
        {"prompt": {"template": "ChatML"}},
        {"prompt": {"template": "Raw"}},
        {"prompt": {"system": "be brief"}},
        {"prompt": {"trainOnRoles": ["Assistant", "User"]}},
        {"prompt": {"trainOnTurns": "Last"}},
        {"tokenizer": {"additionalTokens": ["<new>"]}},
    ],
    ids=str,
)
def test_what_changes_the_encoding_is_tokenised_anew(runs, spec):
    runs.prepared(1)
    assert runs.prepared(2, **spec)[0] == 60


def test_a_sample_of_the_records_is_other_records(runs):
    runs.prepared(1)
    assert runs.prepared(2, dataset={"name": "faq", "sampleRows": 20})[0] == 20
    assert runs.prepared(3, dataset={"name": "faq", "sampleRows": 20})[0] == 0


def test_another_namespace_never_shares(anywhere):
    anywhere.prepared(1)
    assert anywhere.prepared(1, "other")[0] == 60
    assert anywhere.encoded(1, "other") == anywhere.encoded(1)


def test_a_run_finds_its_own_encodings_again(runs):
    runs.prepared(1)
    assert runs.prepared(1, attempt=2)[0] == 0
    assert runs.prepared(1, attempt=1)[0] == 0
    assert runs.encoded(1) == ["encoded-1-1-train", "encoded-1-1-validation"]


def test_a_spool_comes_back_from_its_files_with_turns(tmp_path):
    special = SpecialTokens(end="<|end|>", all=frozenset({"<|end|>"}))
    tokenizer = TextTokenizer(trained_tokenizer(["question answer"]), special, None)
    source = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>{% endfor %}"
    encoder = Encoder(tokenizer, ChatTemplate("own", source, special), with_turns=True)
    turns = [
        [{"role": role, "content": f"{role} {n}"} for role in ("user", "assistant") * 2]
        for n in range(7)
    ]
    rows = Rows([str(n) for n in range(7)], [None] * 7, turns, [None] * 7)
    *_, (_, spool) = spooled_samples(SplitSource("train", rows, encoder), tmp_path / "train")
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, content in spool.files():
        (copy / name).write_bytes(b"".join(content))
    same = TokenSpool.of_files(copy)
    assert len(same.turns) == 28
    for part in ("tokens", "flags", "turns"):
        assert np.array_equal(getattr(same, part), getattr(spool, part))
    assert np.array_equal(same.table(), spool.table())
    (copy / "flags-0").write_bytes(b"")
    with pytest.raises(ValueError, match="not those of its samples"):
        TokenSpool.of_files(copy)
