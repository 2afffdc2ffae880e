"""Errors the operator raises on purpose, and what becomes of each.

OperatorError
├── ClusterError            the API server did not do what was asked
│   ├── ConflictError          the object changed since it was read: read again, plan again
│   ├── FieldConflictError     somebody else owns a field of our child: slow retry
│   ├── RefusedError           403, 413, 422: a condition with the server's words, slow retry
│   ├── NamespaceEndingError   the namespace is being deleted: the key is forgotten
│   ├── NotServedError         the kind is not known to the API server: slow retry
│   ├── AbsentError            the object of a status write is gone: the key is forgotten
│   ├── ExpiredError           410: a list or watch is too old, list anew
│   ├── MalformedError         400, 405, 415: a bug of ours, slowest retry
│   ├── CredentialsError       401 twice: the process ends and is started again
│   └── UnavailableError       5xx, no answer: retry with delay; the outcome may be unknown
│       └── ThrottledError        429: all writes pause for as long as the server says
├── NameTakenError          a child's name belongs to somebody else: Stalled until it is free
├── PredecessorError        a child of a deleted object of the same name remains: wait for it
├── LeadershipLostError     another process holds the Lease: end without another write
└── SettingsError           the operator's own settings are wrong: end at start
"""

from __future__ import annotations

from typing import ClassVar

LONGEST_DELAY_SECONDS = 300.0


class OperatorError(Exception):
    """Root of all errors raised on purpose."""

    first_delay_seconds: ClassVar[float] = 1.0
    """Wait before the first repetition; it doubles up to `LONGEST_DELAY_SECONDS`."""
    forgets_key: ClassVar[bool] = False
    """The object is gone or going: there is nothing to repeat."""
    is_users: ClassVar[bool] = False
    """Caused by what the user or administrator set up, not by the operator or the cluster."""

    @property
    def reason(self) -> str:
        """Return the class name without `Error`, as in conditions and metrics."""
        return type(self).__name__.removesuffix("Error")


class ClusterError(OperatorError):
    """The API server did not do what was asked."""

    def __init__(self, message: str, *, status: int = 0, retry_after_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_seconds = retry_after_seconds


class ConflictError(ClusterError):
    """The object changed since it was read; reading and planning again resolves it."""

    first_delay_seconds = 0.0


class FieldConflictError(ClusterError):
    """Another field manager owns a field of our child."""

    first_delay_seconds = LONGEST_DELAY_SECONDS
    is_users = True


class RefusedError(ClusterError):
    """A right is missing, or quota, Pod Security, a policy or the schema refused the child."""

    first_delay_seconds = 10.0
    is_users = True


class NamespaceEndingError(ClusterError):
    """The namespace is terminating: the normal end of life of everything in it."""

    forgets_key = True


class NotServedError(ClusterError):
    """The API server does not know the kind."""

    first_delay_seconds = LONGEST_DELAY_SECONDS
    is_users = True


class AbsentError(ClusterError):
    """The object to be written is gone."""

    forgets_key = True


class ExpiredError(ClusterError):
    """The asked-for resource version is too old to list or watch from."""


class MalformedError(ClusterError):
    """The API server did not understand the request: a bug of the operator."""

    first_delay_seconds = LONGEST_DELAY_SECONDS


class CredentialsError(ClusterError):
    """The API server does not accept the credentials, freshly loaded ones included."""


class UnavailableError(ClusterError):
    """No answer, or a server error: whether the request took effect is unknown."""


class ThrottledError(UnavailableError):
    """The API server asks to slow down."""


class NameTakenError(OperatorError):
    """An object with the name of our child exists and is not controlled by its owner."""

    first_delay_seconds = 10.0
    is_users = True

    def __init__(self, kind: str, name: str, holder: str) -> None:
        super().__init__(
            f"{kind} {name} exists and belongs to {holder}; delete it or rename this object"
        )


class PredecessorError(OperatorError):
    """The child of a deleted object of the same name is not gone yet."""

    first_delay_seconds = 2.0
    is_users = True


class LeadershipLostError(OperatorError):
    """Another process holds the Lease, or it could not be renewed in time."""


class SettingsError(OperatorError):
    """The operator's settings are wrong."""
