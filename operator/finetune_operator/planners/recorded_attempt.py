"""What the three kinds record of their attempts in the same way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_api.run_outcome import Artifact, Outcome
from finetune_api.status_parts import ArtifactStatus, WarningStatus
from finetune_operator.checks import Refusal
from finetune_operator.observed import JobFacts, Observed
from finetune_operator.planners.work import Obstacle
from finetune_operator.status import NOT_YET, Situation, Verdict

MOST_ARTIFACTS = 12
MOST_WARNINGS = 8


def seen_attempt(
    observed: Observed, job: JobFacts, *, service: str | None = None
) -> dict[str, Any]:
    """Return the updates that a Job, and its first pod on a node, bring."""
    status = observed.object.status
    names = {"job": job.ref.name, "config_map": job.ref.name, "service": service}
    updates: dict[str, Any] = {"children": status.children.model_copy(update=names)}
    if job.bound and not job.suspended and status.attempt.started_time is None:
        started = observed.now.replace(microsecond=0)
        updates["attempt"] = status.attempt.model_copy(update={"started_time": started})
        updates["start_time"] = status.start_time or started
    return updates


def refused(refusal: Refusal, verdicts: Mapping[str, Verdict] | None = None) -> Obstacle:
    """Return the obstacle that a check which does not hold is."""
    return Obstacle(Situation.REFUSED, refusal.reason, refusal.message, verdicts or {})


def first_refusal(*refusals: Refusal | None) -> Refusal | None:
    """Return the first check that does not hold."""
    return next((refusal for refusal in refusals if refusal is not None), None)


def artifacts(known: list[ArtifactStatus], outcome: Outcome) -> list[ArtifactStatus]:
    """Return the known artifacts with those of an outcome, one per name."""
    named = {artifact.name: artifact for artifact in known}
    for artifact in outcome.artifacts:
        named[artifact.kind] = ArtifactStatus(
            name=artifact.kind, uri=artifact.uri, digest=artifact.digest or None
        )
    return list(named.values())[:MOST_ARTIFACTS]


def warnings(known: list[WarningStatus], outcome: Outcome) -> list[WarningStatus]:
    """Return the known warnings with those of an outcome, each once."""
    return list(dict.fromkeys((*known, *outcome.warnings)))[:MOST_WARNINGS]


def artifact(outcome: Outcome, kind: str) -> Artifact | None:
    """Return the artifact of a kind that an outcome names with its digest."""
    return next((a for a in outcome.artifacts if a.kind == kind and a.digest), None)


def turned(reason: str, message: str, *types: str) -> dict[str, Verdict]:
    """Return conditions turned False by a failure."""
    return dict.fromkeys(types, Verdict("False", reason, message))


def not_yet(*types: str) -> dict[str, Verdict]:
    """Return conditions that wait for the work."""
    return dict.fromkeys(types, NOT_YET)
