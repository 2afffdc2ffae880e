"""Outcomes of pods that reached their end, one per kind of work."""

from __future__ import annotations

import json
from typing import Any

from builders import MODEL, NAMES, PLAN, RESULT, digest
from finetune_api.names import DATASET, EXPERIMENT, EXPORT
from finetune_api.run_outcome import Outcome
from finetune_operator.observed import Manifest


def trained() -> Outcome:
    """Return the outcome of a training that reached its end."""
    return Outcome.model_validate_json(
        json.dumps(
            {
                "class": "Completed",
                "step": 100,
                "result": {"step": 90, "uri": RESULT["uri"], "digest": RESULT["digest"]},
                "training": {"checkpointChoice": "Best", "kind": "Adapter"},
            }
        )
    )


def prepared_outcome() -> Outcome:
    """Return the outcome of a preparation that reached its end."""
    pin = {"name": NAMES[DATASET], "digest": digest("d"), "train": 90, "validation": 10}
    return Outcome.model_validate_json(
        json.dumps(
            {
                "class": "Completed",
                "artifacts": [{"kind": "prepared", "uri": "pvc://p", "digest": digest("f")}],
                "preparation": {"dataset": pin, "model": MODEL, "plan": PLAN, "truncation": {}},
            }
        )
    )


def checked_dataset(failure: str = "Completed", **finding: Any) -> Outcome:
    """Return the outcome of a Dataset's Job; with a finding if it failed."""
    told: Manifest = {
        "class": failure,
        "dataset": {
            "recordType": "Conversation", "layout": "Columns",
            "records": {"read": 100, "total": 98, "train": 90, "validation": 8},
            "lengths": {}, "findings": [finding] if finding else [],
        },
    }  # fmt: skip
    if failure == "Completed":
        told["artifacts"] = [
            {"kind": "snapshot", "uri": "pvc://s", "digest": digest("d"), "bytes": 2048},
            {"kind": "report", "uri": "pvc://r"},
        ]
    return Outcome.model_validate_json(json.dumps(told))


def exported() -> Outcome:
    """Return the outcome of an export that reached its end."""
    return Outcome.model_validate_json(
        json.dumps(
            {
                "class": "Completed",
                "export": {
                    "source": {"name": NAMES[EXPERIMENT], "digest": digest("e")},
                    "artifact": {
                        "uri": "pvc://a", "digest": digest("a"), "size": "1 MiB",
                        "files": 5, "dtype": "float32",
                    },
                    "verification": {
                        "maxLogitDifference": 0.0, "meanLogitDifference": 0.0,
                        "samples": 1, "ended": 1,
                    },
                },
            }
        )
    )  # fmt: skip


GOOD_ENDS = {
    (DATASET, "attempt"): checked_dataset,
    (EXPERIMENT, "prepare"): prepared_outcome,
    (EXPERIMENT, "attempt"): trained,
    (EXPORT, "attempt"): exported,
}
