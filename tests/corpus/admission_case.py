"""One object, or one change of an object, and the fields it is refused for."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from finetune_api.names import API_VERSION, DATASET, EXPERIMENT, EXPORT

ABSENT = object()
"""Put in place of a value, removes the field from the minimal object."""

_MINIMAL: dict[str, dict[str, Any]] = {
    DATASET: {"sources": [{"volumeClaim": {"claimName": "data"}}]},
    EXPERIMENT: {"model": {"name": "owner/model"}, "dataset": {"name": "support"}},
    EXPORT: {"source": {"experiment": {"name": "support"}}},
}


@dataclass(frozen=True)
class Case:
    """A create; with `stored` an update; with `status` a write of the status.

    `spec`, `stored` and `stored_status` are laid over a minimal object. `refused` names the
    fields of all problems, in any order; empty means accepted.
    """

    says: str
    kind: str
    spec: dict[str, Any] = field(default_factory=dict)
    refused: tuple[str, ...] = ()
    name: str = "one"
    stored: dict[str, Any] | None = None
    stored_status: dict[str, Any] | None = None
    status: dict[str, Any] | None = None
    top: dict[str, Any] = field(default_factory=dict)

    def manifest(self) -> dict[str, Any]:
        """Return the object that is asked for."""
        return laid_over(_manifest(self.kind, self.name, self.spec), self.top)

    def stored_manifest(self) -> dict[str, Any] | None:
        """Return the object that exists before, or None for a create."""
        if self.stored is None:
            return None
        return _manifest(self.kind, self.name, self.stored)


def _manifest(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": name},
        "spec": laid_over(_MINIMAL[kind], spec),
    }


def laid_over(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return `under` with the fields of `over`; blocks are merged, all else is replaced."""
    result = deepcopy(under)
    for name, value in over.items():
        if value is ABSENT:
            result.pop(name, None)
        elif isinstance(value, dict) and isinstance(result.get(name), dict):
            result[name] = laid_over(result[name], value)
        else:
            result[name] = deepcopy(value)
    return result
