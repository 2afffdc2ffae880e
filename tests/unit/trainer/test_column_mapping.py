"""Which layout and which columns a set of column names means."""

import pytest

from data_ground import dataset_spec, from_claim
from finetune_trainer.column_mapping import column_mapping

COLUMNS = "Columns"


def mapped(columns, /, **spec):
    mapping, problems = column_mapping(columns, dataset_spec(from_claim("x"), **spec), "x.csv")
    if mapping is None:
        return [problem.reason for problem in problems]
    return mapping.layout.value, {part: list(names) for part, names in mapping.columns.items()}


@pytest.mark.parametrize(
    ("columns", "layout", "parts"),
    [
        (["messages"], "Messages", {"messages": ["messages"]}),
        (["id", "conversations"], "Messages", {"messages": ["conversations"]}),
        (
            ["conversation", "system"],
            "Messages",
            {"messages": ["conversation"], "system": ["system"]},
        ),
        (["instruction", "output"], COLUMNS, {"prompt": ["instruction"], "answer": ["output"]}),
        (
            ["instruction", "input", "output"],
            COLUMNS,
            {"prompt": ["instruction", "input"], "answer": ["output"]},
        ),
        (["input", "output"], COLUMNS, {"prompt": ["input"], "answer": ["output"]}),
        (["question", "answer"], COLUMNS, {"prompt": ["question"], "answer": ["answer"]}),
        (["prompt", "completion"], COLUMNS, {"prompt": ["prompt"], "answer": ["completion"]}),
        (["query", "response"], COLUMNS, {"prompt": ["query"], "answer": ["response"]}),
        (["user", "assistant"], COLUMNS, {"prompt": ["user"], "answer": ["assistant"]}),
        (
            ["system_prompt", "question", "response"],
            COLUMNS,
            {"prompt": ["question"], "answer": ["response"], "system": ["system_prompt"]},
        ),
        (
            ["text", "question", "answer"],
            COLUMNS,
            {"prompt": ["question"], "answer": ["answer"]},
        ),
        (["text"], "PlainText", {"text": ["text"]}),
        (["content", "url"], "PlainText", {"text": ["content"]}),
        (["document"], "PlainText", {"text": ["document"]}),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
def test_known_names_are_recognised(columns, layout, parts):
    assert mapped(columns) == (layout, parts)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        pytest.param(
            ["messages", "prompt", "answer"], "AmbiguousColumns", id="turns and an answer"
        ),
        pytest.param(["prompt", "question", "answer"], "AmbiguousColumns", id="two prompts"),
        pytest.param(["prompt", "answer", "output"], "AmbiguousColumns", id="two answers"),
        pytest.param(["text", "document"], "AmbiguousColumns", id="two documents"),
        pytest.param(["messages", "conversations"], "AmbiguousColumns", id="two lists of turns"),
        pytest.param(["prompt"], "MissingColumn", id="no answer"),
        pytest.param(["chosen", "rejected"], "MissingColumn", id="preference pairs"),
        pytest.param(["c0", "c1"], "MissingColumn", id="no known name"),
    ],
)
def test_two_meanings_or_none_are_findings(columns, reason):
    assert mapped(columns) == [reason]


def test_a_given_column_wins_over_known_names():
    columns = {"prompt": ["title", "question"], "answer": "best"}
    assert mapped(["title", "question", "answer", "best"], columns=columns) == (
        COLUMNS,
        {"prompt": ["title", "question"], "answer": ["best"]},
    )


def test_a_mapped_text_column_makes_documents_of_rows_with_answers():
    assert mapped(["prompt", "answer"], columns={"text": "answer"})[0] == "PlainText"


def test_an_empty_system_mapping_means_none():
    columns = {"system": ""}
    assert mapped(["system", "prompt", "answer"], columns=columns)[1] == {
        "prompt": ["prompt"],
        "answer": ["answer"],
    }


def test_a_given_layout_decides_between_two_meanings():
    assert mapped(["messages", "prompt", "answer"], layout="Messages")[0] == "Messages"


def test_a_given_record_type_decides_between_two_meanings():
    assert mapped(["text", "prompt", "answer"], recordType="Text")[0] == "PlainText"


def test_status_tells_detected_from_given():
    columns = {"answer": "best"}
    spec = dataset_spec(from_claim("x"), columns=columns)
    mapping, _ = column_mapping(["instruction", "input", "best"], spec, "x.csv")
    assert [(one.role, one.column, one.detected) for one in mapping.status()] == [
        ("prompt", "instruction, input", True),
        ("answer", "best", False),
    ]
