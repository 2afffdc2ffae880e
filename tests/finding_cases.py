"""Files with one thing wrong each, and the finding a user reads about it."""

import pytest

from data_ground import jsonl, questions


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
