"""What each refusal of the API server becomes, and that nothing private leaks into its text."""

from __future__ import annotations

import json

import pytest

from finetune_operator import errors
from finetune_operator.cluster.answers import LONGEST_MESSAGE, Answer, cluster_error, newest_warning


def answer(status: int, *, causes: tuple[str, ...] = (), **words: object) -> Answer:
    details = {**words.pop("details", {}), "causes": [{"reason": cause} for cause in causes]}
    body = {"kind": "Status", "code": status, "details": details, **words}
    return Answer(status, json.dumps(body).encode())


NAMED = {"name": "demo", "kind": "jobs"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(answer(400), errors.MalformedError, id="bad request"),
        pytest.param(answer(401), errors.CredentialsError, id="unauthorized"),
        pytest.param(answer(403), errors.RefusedError, id="right missing, quota, policy"),
        pytest.param(
            answer(403, causes=("NamespaceTerminating",)),
            errors.NamespaceEndingError,
            id="namespace terminating",
        ),
        pytest.param(answer(404, details=NAMED), errors.AbsentError, id="object absent"),
        pytest.param(Answer(404, b"404 page not found"), errors.NotServedError, id="kind unknown"),
        pytest.param(
            answer(404, details={"name": "ml", "kind": "namespaces"}),
            errors.NamespaceEndingError,
            id="namespace gone",
        ),
        pytest.param(answer(405), errors.MalformedError, id="method not allowed"),
        pytest.param(answer(409, reason="Conflict"), errors.ConflictError, id="version or UID"),
        pytest.param(answer(409, reason="AlreadyExists"), errors.ConflictError, id="exists"),
        pytest.param(
            answer(409, causes=("FieldManagerConflict",)),
            errors.FieldConflictError,
            id="another field manager",
        ),
        pytest.param(answer(410), errors.ExpiredError, id="too old"),
        pytest.param(answer(413), errors.RefusedError, id="too large"),
        pytest.param(answer(415), errors.MalformedError, id="media type"),
        pytest.param(answer(422), errors.RefusedError, id="invalid"),
        pytest.param(answer(429), errors.ThrottledError, id="slow down"),
        pytest.param(
            answer(
                500, message="failed to create typed patch object (ml/demo; batch/v1, Kind=Job)"
            ),
            errors.RefusedError,
            id="unknown field under server-side apply",
        ),
        pytest.param(
            answer(400, message='strict decoding error: unknown field "spec.template.x"'),
            errors.RefusedError,
            id="unknown field of a created child",
        ),
        pytest.param(
            answer(400, message='Job in version "v1" cannot be handled as a Job: json: cannot'),
            errors.RefusedError,
            id="wrong type in a created child",
        ),
        pytest.param(answer(500), errors.UnavailableError, id="server error"),
        pytest.param(Answer(503, b"<html>"), errors.UnavailableError, id="gateway page"),
        pytest.param(Answer(418, b""), errors.MalformedError, id="anything else below 500"),
    ],
)
def test_an_answer_becomes_the_error_callers_decide_by(given, expected):
    assert type(cluster_error(given)) is expected


def test_the_text_is_status_reason_and_a_bounded_quotation():
    error = cluster_error(answer(422, reason="Invalid", message="x" * 5000))
    assert str(error) == "422 Invalid: " + "x" * LONGEST_MESSAGE


def test_a_body_that_is_no_status_is_never_quoted():
    error = cluster_error(Answer(500, b"<p>Authorization: Bearer abc</p>"))
    assert "abc" not in str(error)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("", 0.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0), ("99999", 300.0)],
    ids=["seconds", "absent", "a date", "absurd"],
)
def test_retry_after_is_understood_in_seconds_and_bounded(header, seconds):
    error = cluster_error(Answer(429, b"{}", header))
    assert error.retry_after_seconds == seconds


def test_every_error_says_how_it_is_repeated_and_is_drawn_in_the_tree():
    drawn = errors.__doc__ or ""
    found = {
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.OperatorError)
    }
    assert {kind.__name__ for kind in found if kind.__name__ not in drawn} == set()
    assert all(0 <= k.first_delay_seconds <= errors.LONGEST_DELAY_SECONDS for k in found)


def test_the_newest_warning_is_quoted_without_the_name_that_changes_at_each_try():
    def told(when: str, pod: str, why: str) -> dict:
        message = f'Error creating: pods "{pod}" is forbidden: {why}'
        return {"lastTimestamp": when, "reason": "FailedCreate", "message": message}

    newer = told("2026-01-01T00:02:00Z", "run-a1-0-bbbbb", "exceeded quota")
    older = told("2026-01-01T00:01:00Z", "run-a1-0-aaaaa", "no service account")
    quoted = "FailedCreate: Error creating: pods is forbidden: exceeded quota"
    assert newest_warning([newer, older]) == quoted
    again = told("2026-01-01T00:03:00Z", "run-a1-0-ccccc", "exceeded quota")
    assert newest_warning([older, again, newer]) == quoted


def test_no_events_say_nothing():
    assert newest_warning([]) == ""


def test_what_the_scheduler_once_said_is_no_warning_of_today():
    old = {"lastTimestamp": "2", "reason": "FailedScheduling", "message": "0/3 nodes"}
    new = {"lastTimestamp": "1", "reason": "FailedMount", "message": 'secret "s3" not found'}
    assert newest_warning([old, new]) == 'FailedMount: secret "s3" not found'
    assert newest_warning([old]) == ""
