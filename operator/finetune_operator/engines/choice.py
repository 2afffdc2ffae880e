"""Which engine runs an attempt, by the kind of its child."""

from __future__ import annotations

from collections.abc import Mapping

from finetune_api.compute_settings import Engine
from finetune_operator.engines.attempt_engine import AttemptEngine
from finetune_operator.engines.indexed_job import IndexedJobEngine
from finetune_operator.engines.jobset import JobSetEngine

ENGINES: Mapping[str, AttemptEngine] = {
    Engine.JOB: IndexedJobEngine(),
    Engine.JOB_SET: JobSetEngine(),
}
