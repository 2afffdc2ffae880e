"""Log lines carry no secrets, whoever wrote them."""

from __future__ import annotations

import io
import json
import logging

import pytest
import structlog

from finetune_operator import log_output
from finetune_operator.observed import Key


@pytest.fixture
def lines():
    root, stream = logging.getLogger(), io.StringIO()
    before = (list(root.handlers), root.level)
    log_output.configure("info", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers, root.level = before
    structlog.reset_defaults()


def test_our_messages_are_json_with_a_searchable_key(lines):
    structlog.get_logger().info("step failed", key=Key("Dataset", "ml", "faq"))
    (line,) = lines()
    assert (line["event"], line["key"], line["level"]) == ("step failed", "Dataset/ml/faq", "info")


@pytest.mark.parametrize(
    "said",
    [
        {"authorization": "canary-1234"},
        {"error": "GET /x Authorization: Bearer canary-1234"},
        {"url": "https://me:canary-1234@host/path"},
        {"note": "hf_canary1234"},
        {"secretKey": "canary-1234"},
    ],
    ids=["a named field", "a bearer token", "a URL", "a hub token", "part of a name"],
)
def test_what_looks_like_a_secret_is_hidden(lines, said):
    structlog.get_logger().warning("trouble", **said)
    (line,) = lines()
    assert "canary" not in json.dumps(line)
    assert log_output.HIDDEN in json.dumps(line)


def test_messages_of_libraries_pass_the_same_filter(lines):
    logging.getLogger("somelib").warning("token is %s", "Bearer canary-1234")
    (line,) = lines()
    assert "canary" not in json.dumps(line)


def test_an_exception_text_passes_the_same_filter(lines):
    try:
        raise RuntimeError("Bearer canary-1234")
    except RuntimeError:
        structlog.get_logger().exception("broken")
    (line,) = lines()
    assert "RuntimeError" in line["exception"]
    assert "canary" not in json.dumps(line)


@pytest.mark.parametrize(
    ("said", "level"),
    [
        ("Request attempt #1/9 failed; will retry: GET /x -> 429", "warning"),
        ("Request attempt #1/9 failed; TCP closed; will re-authenticate: GET /x", "warning"),
        ("Request attempt #9/9 failed; escalating: GET /x -> 429", "error"),
        ("Exception in callback stream.<locals>.request_cancel_callback(<Task>)", "warning"),
    ],
)
def test_what_has_not_failed_is_no_error(lines, said, level):
    logging.getLogger("kopf.clients").error(said)
    assert [line["level"] for line in lines()] == [level]
