"""A work whose attempts stand in `status.attempt`: all but an experiment's preparation."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar

from finetune_api.status_parts import AttemptStatus
from finetune_operator.planners.elapsed import seconds_since
from finetune_operator.planners.work import Recorded, Work


class AttemptWork(Work):
    """What Datasets, trainings and exports record of their attempts in the same way."""

    passing: ClassVar[str] = "progress"
    """passing is the field of the status that ends with an attempt."""

    def recorded(self) -> Recorded:
        """Return what `status.attempt` says."""
        status = self.observed.object.status
        attempt = status.attempt
        return Recorded(
            number=attempt.number,
            ended=attempt.ended,
            ended_time=attempt.ended_time,
            seen=status.children.job == self.job_name(attempt.number),
        )

    def begun(self, number: int) -> dict[str, Any]:
        """Record an attempt; its Job has not been seen yet."""
        status, metadata = self.observed.object.status, self.observed.object.metadata
        attempt = AttemptStatus(
            number=number,
            generation=metadata.generation,
            created_time=self.observed.now.replace(microsecond=0),
        )
        children = status.children.model_copy(update={"job": None, "config_map": None})
        return {"attempt": attempt, "children": children}

    def held(self, started: datetime | None, _news: Mapping[str, Any]) -> dict[str, Any]:
        """Record the running time."""
        seconds = seconds_since(started, self.observed.now)
        return {"active_seconds": self.observed.object.status.active_seconds + seconds}

    def ended(self, ended: str) -> dict[str, Any]:
        """Record the end of an attempt."""
        end = {"ended": ended, "ended_time": self.observed.now.replace(microsecond=0)}
        attempt = self.observed.object.status.attempt.model_copy(update=end)
        return {"attempt": attempt, self.passing: None}
