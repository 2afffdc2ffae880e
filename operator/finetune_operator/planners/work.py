"""What tells the works of the three kinds apart; what they have in common is `attempt_life`.

A work is one Job and its successors until its good end: of a Dataset, of an experiment's
preparation, of its training, of a ModelExport.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Literal

from finetune_api.run_outcome import FailureClass, Outcome
from finetune_operator.observed import Event, JobFacts, Key, Manifest, Observed
from finetune_operator.planners.failure_class import End
from finetune_operator.planners.spending import Spending
from finetune_operator.status import Situation, Verdict

SUSPENDED = "Suspended"
REPLACED = "Replaced"
"""Ends that are no failure: they cost no budget and no delay."""


@dataclass(frozen=True)
class Recorded:
    """What the status says of the present attempt of a work; number 0 = none yet."""

    number: int = 0
    ended: str | None = None
    ended_time: datetime | None = None
    seen: bool = False
    """seen once its Job was observed: when it is missing afterwards, it has vanished."""


@dataclass(frozen=True)
class Obstacle:
    """Why no attempt can be made now."""

    situation: Situation
    reason: str
    message: str
    verdicts: Mapping[str, Verdict]
    waits_for: tuple[Key, ...] = ()


@dataclass(frozen=True)
class Achievement:
    """What a good end adds to the status."""

    situation: Situation
    reason: str
    message: str
    updates: Mapping[str, Any]
    verdicts: Mapping[str, Verdict]


@dataclass(frozen=True)
class Work(ABC):
    """The part of a work that depends on its kind, for one observation."""

    observed: Observed

    component: ClassVar[Literal["attempt", "prepare"]] = "attempt"
    """component is the label of its Jobs."""
    waiting_reason: ClassVar[str] = "Queued"
    """waiting_reason is the reason of Ready while no pod is on a node."""
    started_event: ClassVar[str] = "AttemptStarted"
    """started_event is the reason of the event that a new attempt is."""
    lost_event: ClassVar[str] = "Restarting"
    """lost_event is the reason of the event that an attempt which is repeated is."""
    heeds_suspend: ClassVar[bool] = True
    """heeds_suspend: runPolicy.suspend stops it."""

    @abstractmethod
    def recorded(self) -> Recorded:
        """Return what the status says of its present attempt."""

    @abstractmethod
    def begun(self, number: int) -> dict[str, Any]:
        """Return the status updates that record a new attempt."""

    @abstractmethod
    def ended(self, ended: str) -> dict[str, Any]:
        """Return the status updates that record the end of the present attempt."""

    @abstractmethod
    def obstacle(self) -> Obstacle | None:
        """Return what keeps an attempt from being made, or None."""

    @abstractmethod
    def job_name(self, number: int) -> str:
        """Return the name of an attempt's Job."""

    @abstractmethod
    def children(self, number: int) -> tuple[Manifest, ...]:
        """Return the children of an attempt; nothing stands in the way of making them."""

    @abstractmethod
    def achieved(self, outcome: Outcome) -> Achievement | None:
        """Return what a good end adds; None if the outcome does not hold what it must."""

    @abstractmethod
    def stage(self, job: JobFacts, known: str) -> tuple[str, str]:
        """Return reason and message of Ready while pods run; `known` is the present reason."""

    @abstractmethod
    def seen(self, job: JobFacts) -> dict[str, Any]:
        """Return the status updates that a living Job and its progress bring."""

    @abstractmethod
    def verdicts(self, updates: Mapping[str, Any]) -> Mapping[str, Verdict]:
        """Return the conditions of this kind while it is under way."""

    def pods(self) -> int:
        """Return the number of pods of an attempt."""
        return 1

    def failed(self, _end: End) -> Mapping[str, Verdict]:
        """Return the conditions of this kind that a final failure turns."""
        return {}

    def can_help(self, _failure: FailureClass) -> bool:
        """Tell whether another attempt after such an end would differ from the last."""
        return True

    def learned(self, _job: JobFacts) -> dict[str, Any]:
        """Return the status updates that the last words of an ended attempt bring."""
        return {}

    def measured(self, _end: End) -> dict[str, Any]:
        """Return what the record of an ended attempt holds of its steps."""
        return {}

    def held(self, _started: datetime | None, _news: Mapping[str, Any]) -> dict[str, Any]:
        """Return the status updates for the time an attempt was on nodes, once that has ended.

        `news` are updates that come with its end.
        """
        return {}

    def spending(self) -> Spending | None:
        """Return what it has spent of a budget; None if it takes nothing that costs."""
        return None

    def notices(self, _updates: Mapping[str, Any]) -> tuple[Event, ...]:
        """Return events that the updates call for beside the change of Ready."""
        return ()
