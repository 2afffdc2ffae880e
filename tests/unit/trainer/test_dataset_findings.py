"""Every finding: what is wrong with the data, in the words a user reads."""

import json

import pytest

from data_ground import dataset_spec, from_claim, jsonl, questions
from finding_cases import CASES, chat, messages
from finetune_trainer.dataset_job import check_whole, read
from finetune_trainer.finding_kinds import CHECKS
from finetune_trainer.findings import Findings, Problem
from finetune_trainer.sources import fetch_source
from finetune_trainer.sources.fetched_files import Desk
from finetune_trainer.split import divided


def findings(ground, tmp_path, content, *, name="faq.jsonl", source=None, **spec):
    """Return what reading one file of the claim `data` finds."""
    ground.put(name, content)
    wanted = dataset_spec(from_claim(name, **(source or {})), **spec)
    desk = Desk(tmp_path / "scratch", 1 << 20)
    fetched = [(f"{n}", one, fetch_source(one, desk)) for n, one in enumerate(wanted.sources)]
    reading = read(wanted, fetched)
    check_whole(reading, divided(reading.records, wanted.split), wanted)
    return reading.findings.listed()


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
