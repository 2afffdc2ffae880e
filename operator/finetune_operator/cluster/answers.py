"""What the API server's refusals mean: answers become one of our errors, events one sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from finetune_operator.errors import (
    AbsentError,
    ClusterError,
    ConflictError,
    CredentialsError,
    ExpiredError,
    FieldConflictError,
    MalformedError,
    NamespaceEndingError,
    NotServedError,
    RefusedError,
    ThrottledError,
    UnavailableError,
)
from finetune_operator.observed import Manifest

_POD_NAME = re.compile(r'pods "[^"]*"')
_SCHEMA_WORDS = {
    400: ("strict decoding error", "cannot be handled as a"),
    500: ("failed to create typed patch object",),
}
"""What is said of an unknown field or a wrong type in what was created, or applied."""
LONGEST_MESSAGE = 256
"""Characters of the server's words that are quoted; never headers, never the body."""
BY_STATUS: dict[int, type[ClusterError]] = {
    400: MalformedError, 401: CredentialsError, 403: RefusedError, 404: AbsentError,
    405: MalformedError, 409: ConflictError, 410: ExpiredError, 413: RefusedError,
    415: MalformedError, 422: RefusedError, 429: ThrottledError,
}  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """A refusal as it came over the wire."""

    status: int
    body: bytes
    retry_after: str = ""

    def words(self) -> dict[str, Any]:
        """Return the body as a Status object, {} if it is none."""
        try:
            parsed = json.loads(self.body)
        except ValueError:
            return {}
        return parsed if isinstance(parsed, dict) else {}


def cluster_error(answer: Answer) -> ClusterError:
    """Return the error that `answer` stands for; unlisted 4xx are our bug, 5xx an outage."""
    words = answer.words()
    status, reason = answer.status, str(words.get("reason") or "")
    message = str(words.get("message") or "")
    kind = _refined(status, words, message) or BY_STATUS.get(status)
    if kind is None:
        kind = UnavailableError if status >= 500 else MalformedError
    text = f"{status} {reason}: {message[:LONGEST_MESSAGE]}" if message else f"{status} {reason}"
    return kind(text.strip(), status=status, retry_after_seconds=_seconds(answer.retry_after))


def newest_warning(events: Iterable[Manifest]) -> str:
    """Return the newest of some Warning events as `Reason: message`, or ''.

    A refused pod is named anew at each try; without its name the sentence stays the same. What
    the scheduler says now stands in the pod itself, its events may be of the past.
    """
    newest = max(
        (event for event in events if event.get("reason") != "FailedScheduling"),
        key=lambda e: e.get("lastTimestamp") or e.get("eventTime") or "",
        default={},
    )
    message = _POD_NAME.sub("pods", str(newest.get("message", "")))[:LONGEST_MESSAGE]
    return f"{newest.get('reason', '')}: {message}" if message else ""


def quota_message(workloads: Iterable[Manifest]) -> str:
    """Return why the queue has not reserved quota for a Workload, in its own words, or ''."""
    for workload in workloads:
        for condition in workload.get("status", {}).get("conditions") or ():
            if condition.get("type") == "QuotaReserved" and condition.get("status") != "True":
                return str(condition.get("message", ""))[:LONGEST_MESSAGE]
    return ""


def _refined(status: int, words: dict[str, Any], message: str) -> type[ClusterError] | None:
    """Tell apart what shares one status code."""
    details = words.get("details") or {}
    causes = {cause.get("reason") for cause in details.get("causes") or ()}
    if status == 403 and "NamespaceTerminating" in causes:
        return NamespaceEndingError
    if status == 404 and details.get("kind") == "namespaces":
        return NamespaceEndingError
    if status == 404 and not details.get("name"):  # no object is named: the path is unknown
        return NotServedError
    if status == 409 and "FieldManagerConflict" in causes:
        return FieldConflictError
    if status in _SCHEMA_WORDS and any(said in message for said in _SCHEMA_WORDS[status]):
        return RefusedError
    return None


def _seconds(retry_after: str) -> float:
    return min(float(retry_after), 300.0) if retry_after.isdecimal() else 0.0
