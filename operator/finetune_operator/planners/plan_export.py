"""Decides what a ModelExport needs next: one Job once its experiment is complete."""

from __future__ import annotations

from finetune_operator.observed import Observed, Plan
from finetune_operator.planners.attempt_life import lived
from finetune_operator.planners.export_work import ExportWork


def plan_export(observed: Observed) -> Plan:
    """Return the answer for an export that is neither deleted nor final."""
    return lived(ExportWork(observed))
