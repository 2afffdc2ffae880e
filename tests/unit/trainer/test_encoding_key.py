"""The key of encoded records: it follows whatever decides them, and nothing else."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import jinja2
import pytest
import tokenizers

import finetune_trainer
from data_ground import trained_tokenizer
from finetune_trainer import encoding_key
from finetune_trainer.chat_template import ChatTemplate, SpecialTokens
from finetune_trainer.encode import Encoder
from finetune_trainer.encoding_key import CODE, encoder_facts
from finetune_trainer.prepared_samples import SplitSource
from finetune_trainer.snapshot import Rows
from finetune_trainer.supervision import Supervision
from finetune_trainer.text_tokenizer import TextTokenizer
from finetune_trainer.token_spool import FACTS

SPECIAL = SpecialTokens(begin="<|begin|>", end="<|end|>", all=frozenset({"<|begin|>", "<|end|>"}))
TEMPLATE = ChatTemplate("own", "{{ messages }}", SPECIAL)
TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
PACKAGE = Path(finetune_trainer.__file__).parent


def encoder(*, text="question", special=SPECIAL, template=TEMPLATE, **options):
    return Encoder(TextTokenizer(trained_tokenizer([text]), special, None), template, **options)


def rows(**columns):
    return replace(Rows(["r"], ["s"], [TURNS], ["text"]), **columns)


def key(made=None, data=None, **source):
    """Return the key of one record."""
    made = made or encoder()
    one = SplitSource("train", data or rows(), made, **source)
    return encoding_key.encoding_key(one, encoder_facts(made))


def test_the_same_again_has_the_same_key():
    assert key() == key()


@pytest.mark.parametrize(
    "options",
    [
        {"made": {"text": "another text of other pieces"}},
        {"made": {"special": replace(SPECIAL, end="<|user|>")}},
        {"made": {"special": replace(SPECIAL, begin_is_added=True)}},
        {"made": {"special": replace(SPECIAL, all=frozenset({"<|end|>"}))}},
        {"made": {"template": replace(TEMPLATE, source="{{ messages }} ")}},
        {"made": {"template": replace(TEMPLATE, tokens=SpecialTokens())}},
        {"made": {"template": replace(TEMPLATE, stops=("\n",))}},
        {"made": {"supervision": Supervision(frozenset({"assistant", "user"}))}},
        {"made": {"supervision": Supervision(only_last=True)}},
        {"made": {"with_turns": True}},
        {"system": "be brief"},
        {"documents": True},
        {"data": {"systems": [None]}},
        {"data": {"texts": ["other"]}},
        {"data": {"turns": [[*TURNS, *TURNS]]}},
        {"data": {"turns": [[{**TURNS[0], "train": False}, TURNS[1]]]}},
    ],
    ids=lambda options: "-".join([*options, *options.get("made", ())]),
)
def test_each_ingredient_changes_the_key(options):
    made = encoder(**options.pop("made", {}))
    assert key(made, rows(**options.pop("data", {})), **options) != key()


@pytest.mark.parametrize("column", ["ids", "groups", "sources"])
def test_what_only_names_a_record_does_not_change_the_key(column):
    assert key(data=rows(**{column: ["other"]})) == key()


def test_the_order_of_records_counts():
    other = [{"role": "user", "content": "z"}, TURNS[1]]
    both = {"ids": ["r", "q"], "systems": [None] * 2, "texts": [None] * 2}
    first, second = (rows(**both, turns=turns) for turns in ([TURNS, other], [other, TURNS]))
    assert key(data=first) != key(data=second)


@pytest.mark.parametrize("library", [jinja2, tokenizers])
def test_another_version_of_a_library_changes_the_key(monkeypatch, library):
    before = key()
    monkeypatch.setattr(library, "__version__", "0.0.1")
    assert key() != before


@pytest.mark.parametrize("name", CODE)
def test_another_code_changes_the_key(monkeypatch, name):
    before, read = key(), Path.read_bytes
    changed = f"{name}.py"
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + b"#" * (path.name == changed))
    assert key() != before


def test_another_layout_of_samples_changes_the_key(monkeypatch):
    before = key()
    monkeypatch.setattr(encoding_key, "FACTS", FACTS.newbyteorder())
    assert key() != before


def test_all_code_that_makes_samples_counts():
    """`errors` raises only; the others know the spools, or limits, or are fed what counts."""
    beside = {"errors", "dataset_statistics", "snapshot", "truncation"}
    found = {one for name in CODE for one in imported(PACKAGE / f"{name}.py")}
    assert found - beside <= set(CODE)


def imported(path):
    """Return the modules of the trainer that a module imports."""
    return {
        node.module.partition(".")[2]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("finetune_trainer.")
    }
