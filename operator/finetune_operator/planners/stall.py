"""Whether a run hangs where its own watchdog could not end it: the second line.

Ages are told by the pod itself, measured on its own clock. A pod that does not answer at all is
left to its liveness probe: a network between operator and pod that fails must stop no healthy run.
"""

from __future__ import annotations

from finetune_api.run_policy import RunPolicy, TrainingRunPolicy
from finetune_api.run_progress import SILENT_STEPS
from finetune_operator.observed import JobFacts

PATIENCE = 2
"""The watchdog comes first: the operator waits this many times its limit."""


def stall(job: JobFacts, policy: RunPolicy) -> str:
    """Return in words how long a running Job has shown no sign of life, or an empty text."""
    if not isinstance(policy, TrainingRunPolicy) or not policy.hang_timeout_seconds:
        return ""
    told = job.progress
    if told is None or told.silent_seconds is None or not _all_run(job):
        return ""
    limit = PATIENCE * max(
        policy.hang_timeout_seconds, SILENT_STEPS * (told.median_step_seconds or 0.0)
    )
    if told.silent_seconds <= limit:
        return ""
    return (
        f"no sign of life for {told.silent_seconds:.0f} s after step {told.step}, twice the limit "
        f"of runPolicy.hangTimeoutSeconds {policy.hang_timeout_seconds} and {SILENT_STEPS} steps"
    )


def _all_run(job: JobFacts) -> bool:
    pods = [pod for pod in job.pods if not pod.gone]
    return bool(pods) and all(pod.phase == "Running" and not pod.deleting for pod in pods)
