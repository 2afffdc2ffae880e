"""Every finding: what is wrong with the data, in the words a user reads."""

import json

import pytest

from data_ground import Ground, dataset_spec, from_claim, jsonl, questions
from finetune_trainer.dataset_job import check_whole, read
from finetune_trainer.findings import CHECKS, Findings, Problem
from finetune_trainer.sources import fetch_source
from finetune_trainer.sources.fetched_files import Desk
from finetune_trainer.split import divided


@pytest.fixture
def ground(tmp_path, monkeypatch):
    return Ground(tmp_path, monkeypatch)


def findings(ground, tmp_path, content, *, name="faq.jsonl", source=None, **spec):
    """Return what reading one file of the claim `data` finds."""
    ground.put(name, content)
    wanted = dataset_spec(from_claim(name, **(source or {})), **spec)
    desk = Desk(tmp_path / "scratch", 1 << 20)
    fetched = [(f"{n}", one, fetch_source(one, desk)) for n, one in enumerate(wanted.sources)]
    reading = read(wanted, fetched)
    check_whole(reading, divided(reading.records, wanted.split), wanted)
    return reading.findings.listed()


def messages(*turns):
    return [{"role": role, "content": text} for role, text in turns]


def rows_with(*odd, at=2):
    """Return valid rows with odd ones from row `at` on."""
    return [*questions(at - 1), *odd, *questions(4, note="more")[3:]]


def chat(*conversations):
    fine = messages(("user", "why?"), ("assistant", "because"))
    return jsonl({"messages": turns} for turns in [fine, *conversations])


CASES = [
    pytest.param(
        "faq.jsonl",
        b'{"prompt": "a", "answer": "b"}\n{"prompt": "c", "answer": "\xff"}\n',
        "NotUtf8: faq.jsonl, 1 of 2 rows are not UTF-8 (first: 2; line 2, byte 28). Expected: "
        "UTF-8. Fix: convert the file, or declare csv.encoding.",
        id="bad UTF-8 in JSONL",
    ),
    pytest.param(
        "faq.csv",
        b"prompt,answer\na,b\nc,\xff\n",
        "NotUtf8: faq.csv, 1 of 2 rows are not UTF-8 (first: 2; line 3). Expected: UTF-8. "
        "Fix: convert the file, or declare csv.encoding.",
        id="bad UTF-8 in CSV",
    ),
    pytest.param(
        "faq.jsonl",
        jsonl(questions(1)) + '{"prompt": \n[1]\n',
        "ParseError: faq.jsonl, 2 of 3 rows cannot be read (first: 2, 3; line 2: Expecting "
        "value at character 13). Expected: one complete row each. Fix: correct the rows, or "
        "set checks.invalidRow: Drop.",
        id="broken JSON",
    ),
    pytest.param(
        "faq.csv",
        'prompt,answer\na,b\nc,d,e\n"open,f\n',
        "ParseError: faq.csv, 2 of 3 rows cannot be read (first: 2, 3; line 3 has 3 fields, the "
        "header has 2). Expected: one complete row each. Fix: correct the rows, or set "
        "checks.invalidRow: Drop.",
        id="broken CSV",
    ),
    pytest.param(
        "faq.jsonl",
        jsonl({"question": "a", "anwser": "b"} for _ in range(3)),
        "MissingColumn: faq.jsonl, no known columns for turns, prompt and answer, or text; "
        "columns: question, anwser. Expected: the mapped columns. Fix: map the columns in "
        "spec.columns.",
        id="no column for the answer",
    ),
    pytest.param(
        "faq.jsonl",
        jsonl({"prompt": "a", "output": "b", "response": "c"} for _ in range(3)),
        'AmbiguousColumns: faq.jsonl, "output" and "response" could each be the answer. Expected: '
        "one column per part. Fix: map it explicitly in spec.columns.",
        id="two columns for the answer",
    ),
    pytest.param(
        "faq.csv",
        "prompt,answer,prompt\na,b,c\n",
        'DuplicateColumn: faq.csv, column "prompt" occurs twice. Expected: unique names. Fix: '
        "rename one.",
        id="a column name twice",
    ),
    pytest.param(
        "faq.csv",
        "prompt,answer,\na,b,c\n",
        "EmptyColumnName: faq.csv, column 3 has no name. Expected: a name for each column. "
        "Fix: add a header.",
        id="a column without a name",
    ),
    pytest.param(
        "faq.jsonl",
        jsonl(rows_with({"prompt": "c", "answer": " \n"}, {"prompt": "d", "answer": None})),
        'EmptyAnswer: faq.jsonl, column "answer": 2 of 4 rows have no text (first: 2, 3). '
        "Expected: non-empty text. Fix: fill them, or set checks.emptyAnswer: Drop.",
        id="answers without text",
    ),
    pytest.param(
        "faq.jsonl",
        jsonl(rows_with({"prompt": "", "answer": "x"})),
        'EmptyPrompt: faq.jsonl, column "prompt": 1 of 3 rows are blank (first: 2). Expected: at '
        "least one part with text. Fix: fill them, or set checks.emptyPrompt: Drop.",
        id="prompts without text",
    ),
    pytest.param(
        "faq.jsonl",
        jsonl({"text": text} for text in ("one", " ", "two")),
        'EmptyPrompt: faq.jsonl, column "text": 1 of 3 rows are blank (first: 2). Expected: at '
        "least one part with text. Fix: fill them, or set checks.emptyPrompt: Drop.",
        id="documents without text",
    ),
    pytest.param(
        "faq.jsonl",
        jsonl(rows_with({"prompt": "c", "answer": 12})),
        'NotText: faq.jsonl, column "answer": 1 of 3 values are not text (first: 2; found a '
        "number). Expected: text. Fix: write them as text, or set checks.invalidRow: Drop.",
        id="a number for an answer",
    ),
    pytest.param(
        "faq.jsonl",
        chat("[{'role': 'user'}]", [], [{"role": "user"}], [{"content": "x"}]),
        'WrongCellType: faq.jsonl, column "messages": 4 of 5 cells are not lists of turns '
        "(first: 2, 3, 4, 5). Expected: a list of {role, content} with text. Fix: store JSON "
        "lists, not Python text.",
        id="turns that are no list",
    ),
    pytest.param(
        "faq.jsonl",
        chat(messages(("narrator", "once"), ("assistant", "yes"))),
        'UnknownRole: faq.jsonl, column "messages": role "narrator" in 1 conversations (first: 2). '
        "Expected: system, user, assistant, tool or an alias. Fix: map it in spec.roles.",
        id="an unknown role",
    ),
    pytest.param(
        "faq.jsonl",
        chat(messages(("user", "hello?"))),
        'NoAnswerTurn: faq.jsonl, column "messages": 1 conversations have no assistant turn '
        "(first: 2). Expected: at least one. Fix: add answers, or set checks.noAnswerTurn: "
        "Drop.",
        id="a conversation without an answer",
    ),
    pytest.param(
        "faq.jsonl",
        chat(
            messages(("assistant", "hi"), ("user", "a"), ("assistant", "b")),
            messages(("user", "a"), ("user", "b"), ("assistant", "c")),
        ),
        'TurnOrder: faq.jsonl, column "messages": 2 conversations have roles out of order '
        "(first: 2, 3; turn 1 is assistant). Expected: optional system, then user and "
        "assistant in turn. Fix: join turns, or set checks.turnOrder: Drop or Accept.",
        id="roles out of order",
    ),
    pytest.param(
        "faq.jsonl",
        chat(messages(("user", "a"), ("assistant", "b"), ("user", "thanks"))),
        "TrailingTurns: faq.jsonl, 1 conversations end without an answer; what follows the last "
        "answer is removed (first: 2). Expected: an assistant turn at the end. Fix: none needed.",
        id="turns behind the last answer",
    ),
    pytest.param(
        "faq.jsonl",
        jsonl(rows_with({"prompt": "caf\ufffd", "answer": "x\x00"})),
        "DamagedText: faq.jsonl, 1 rows hold replacement or control characters (first: 2). "
        "Expected: readable text. Fix: check the encoding of the export.",
        id="replacement characters",
    ),
    pytest.param(
        "faq.jsonl",
        jsonl([*questions(3), *questions(2)]),
        "Duplicates: faq.jsonl, 2 of 5 rows are exact copies (first: 4, 5). Expected: unique rows. "
        "Fix: set checks.duplicates: Drop.",
        id="exact copies",
    ),
    pytest.param(
        "faq.jsonl",
        jsonl(questions(1)),
        "TooFewRows: snapshot, 1 usable training rows, checks.minRows is 2. Expected: at least "
        "checks.minRows. Fix: add data, or change the checks.",
        id="one row",
    ),
    pytest.param(
        "faq.jsonl",
        jsonl(questions(640)),
        "FewRecords: snapshot, 608 training records. Expected: 1,000 or more is a usual start. "
        "Fix: none needed.",
        id="few records",
    ),
]


@pytest.mark.parametrize(("name", "content", "message"), CASES)
def test_a_finding_names_file_column_rows_expectation_and_remedy(
    ground, tmp_path, name, content, message
):
    assert message in [one.message for one in findings(ground, tmp_path, content, name=name)]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        pytest.param(
            {"columns": {"prompt": ["prompt"], "answer": "anwser"}},
            'MissingColumn: faq.jsonl, no column "anwser"; columns: prompt, answer. Expected: the '
            'mapped columns. Fix: did you mean "answer"?.',
            id="a mapped column that is misspelt",
        ),
        pytest.param(
            {"split": {"column": "part"}},
            'MissingColumn: faq.jsonl, no column "part"; columns: prompt, answer. Expected: the '
            "mapped columns. Fix: map a column that exists.",
            id="a split column that does not exist",
        ),
        pytest.param(
            {"checks": {"maxRowSize": "20"}},
            "RowTooLarge: faq.jsonl, 3 rows are too large (first: 1, 2, 3; 39 bytes of 20). "
            "Expected: at most checks.maxRowSize. Fix: split the documents, or set "
            "checks.rowTooLarge: Drop.",
            id="rows that are too large",
        ),
        pytest.param(
            {"split": {"groupBy": "prompt", "validation": 0.5, "maxValidationRows": 1}},
            None,
            id="a bounded validation split",
        ),
        pytest.param(
            {"split": {"column": "prompt"}},
            'UnknownSplit: faq.jsonl, column "prompt": 3 rows name no split (first: 1, 2, 3; found '
            '"question 0?"). Expected: train, validation or test. Fix: correct them, or set '
            "checks.invalidRow: Drop.",
            id="a split column with other words",
        ),
    ],
)
def test_a_finding_about_the_spec_names_the_column(ground, tmp_path, spec, message):
    found = findings(ground, tmp_path, jsonl(questions(3)), **spec)
    failed = [one.message for one in found if one.action == "Failed"]
    assert failed == ([message] if message else [])


def test_an_empty_split_is_an_error(ground, tmp_path):
    rows = questions(4, team="a")
    found = findings(ground, tmp_path, jsonl(rows), split={"groupBy": "team"})
    assert [one.message for one in found if one.action == "Failed"] == [
        "EmptySplit: snapshot, split.validation 0.05 leaves 0 rows. Expected: at least 1 record. "
        "Fix: raise the share, or add data."
    ]


def test_held_out_rows_that_are_trained_on_are_told(ground, tmp_path):
    rows = [*questions(3, part="train"), *questions(1, part="dev")]
    found = findings(ground, tmp_path, jsonl(rows), split={"column": "part"})
    assert [one.message for one in found if one.reason == "Leakage"] == [
        "Leakage: faq.jsonl, 1 held-out rows occur in training (first: 4). Expected: none. Fix: "
        "remove them from one of the sources."
    ]


def test_groups_in_two_splits_are_told(ground, tmp_path):
    rows = [
        *questions(2, part="train", team="a"),
        {"prompt": "x", "answer": "y", "part": "test", "team": "a"},
    ]
    split = {"column": "part", "groupBy": "team"}
    found = findings(ground, tmp_path, jsonl(rows), split=split)
    assert [one.rows for one in found if one.reason == "GroupAcrossSplits"] == [[3]]


def test_an_extension_without_a_format_is_an_error(ground, tmp_path):
    found = findings(ground, tmp_path, "x", name="faq.xlsx")
    assert found[0].message == (
        'UnsupportedFormat: faq.xlsx, extension of "faq.xlsx". Expected: csv, tsv, json, jsonl, '
        "parquet, txt, each also as .gz. Fix: convert the file, or set format."
    )


def test_all_findings_of_a_pass_are_reported_together(ground, tmp_path):
    content = jsonl(
        [{"prompt": "", "answer": "x"}, {"prompt": "a", "answer": ""}, {"prompt": 1, "answer": "b"}]
    )
    found = findings(ground, tmp_path, content + "{\n")
    assert {one.reason for one in found if one.action == "Failed"} == {
        "EmptyPrompt",
        "EmptyAnswer",
        "NotText",
        "ParseError",
    }


def test_a_dropped_row_is_counted_and_the_rest_is_kept(ground, tmp_path):
    content = jsonl([*questions(12), {"prompt": "a", "answer": ""}])
    found = findings(ground, tmp_path, content, checks={"emptyAnswer": "Drop"})
    assert [(one.reason, one.action, one.rows) for one in found] == [
        ("EmptyAnswer", "Dropped", [13]),
        ("FewRecords", "Accepted", []),
    ]


def test_too_many_dropped_rows_fail_and_name_the_reasons(ground, tmp_path):
    content = jsonl([*questions(2), {"prompt": "a", "answer": ""}]) + "{\n"
    found = findings(ground, tmp_path, content, checks={"policy": "Drop"})
    assert [one.message for one in found if one.action == "Failed"] == [
        "TooFewRows: snapshot, 2 of 4 rows are dropped (EmptyAnswer 1, ParseError 1), more "
        "than checks.maxDroppedShare 0.1. Expected: at least checks.minRows. Fix: add data, or "
        "change the checks."
    ]


def test_only_the_first_five_rows_are_listed(ground, tmp_path):
    content = jsonl([*questions(1), *({"prompt": f"{n}", "answer": ""} for n in range(9))])
    (one,) = [one for one in findings(ground, tmp_path, content) if one.reason == "EmptyAnswer"]
    assert (one.count, one.rows) == (9, [2, 3, 4, 5, 6])


def test_accepted_turn_orders_keep_their_records(ground, tmp_path):
    turns = messages(("assistant", "hi"), ("user", "a"), ("assistant", "b"))
    content = chat(turns, messages(("user", "c"), ("assistant", "d")))
    found = findings(ground, tmp_path, content, checks={"turnOrder": "Accept"})
    assert ("TurnOrder", "Accepted") in [(one.reason, one.action) for one in found]
    assert not [one for one in found if one.action == "Failed"]


def test_a_message_of_huge_names_fits_the_status():
    collected = Findings(dataset_spec(from_claim("x")).checks)
    collected.add(Problem("EmptyAnswer", "f" * 500, 1, "c" * 500))
    assert len(collected.listed()[0].message) == 256


def test_braces_in_the_data_do_not_disturb_a_message():
    collected = Findings(dataset_spec(from_claim("x")).checks)
    collected.add(Problem("UnknownRole", "{0}", 1, "{column}", "{detail}"))
    assert collected.listed()[0].message.startswith('UnknownRole: {0}, column "{column}": role')


def test_every_check_of_the_table_has_a_policy_the_spec_knows():
    known = set(json.loads(dataset_spec(from_claim("x")).checks.model_dump_json()))
    assert {check.policy for check in CHECKS.values() if check.policy} <= known
