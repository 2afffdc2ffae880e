"""The training of a FineTuneExperiment as a work: an attempt is all its ranks together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from finetune_api.conditions import CHECKPOINT_AVAILABLE, DEPENDENCIES_READY, PLANNED
from finetune_api.experiment_plan import PlanStatus
from finetune_api.experiment_status import (
    Checkpoints,
    CostStatus,
    ExperimentProgress,
    PodCounts,
    Result,
)
from finetune_api.names import EXPERIMENT, attempt_job, storage_prefix
from finetune_api.run_config import TrainingConfig
from finetune_api.run_outcome import CheckpointRef, FailureClass, Outcome
from finetune_api.status_parts import Restarts
from finetune_api.training_settings import Mode
from finetune_operator.engines.attempt_engine import Attempt
from finetune_operator.engines.choice import ENGINES
from finetune_operator.manifests.identity import identity, location, spec_digest, world_size
from finetune_operator.manifests.job_pod import GRACE_SECONDS
from finetune_operator.manifests.owned import Owner, owner
from finetune_operator.observed import Event, JobFacts, Manifest, Observed
from finetune_operator.planners.attempt_work import AttemptWork
from finetune_operator.planners.elapsed import seconds_since
from finetune_operator.planners.experiment_of import experiment_of
from finetune_operator.planners.failure_class import End
from finetune_operator.planners.gpu_uses import remaining_gpu_seconds, with_uses
from finetune_operator.planners.recorded_attempt import (
    artifacts,
    refused,
    seen_attempt,
    warnings,
)
from finetune_operator.planners.run_checks import run_refusal
from finetune_operator.planners.run_efficiency import efficiency, forgotten, measured
from finetune_operator.planners.settled import settled
from finetune_operator.planners.spending import Spending, ended_gpu_seconds, spending
from finetune_operator.planners.training_progress import (
    last_words,
    memory_off_plan,
    merged,
    reported,
)
from finetune_operator.planners.work import Achievement, Obstacle
from finetune_operator.status import AS_EXPECTED, NOT_YET, Situation, Verdict

ONE_DAY = 86400
"""Ranks wait so long for each other where no start deadline is set."""
_STAGES = {"Training": "Training", "Saving": "Training", "Evaluating": "Evaluating"}
_MESSAGES = {
    "Starting": "images are pulled, ranks join",
    "Training": "steps are taken",
    "Evaluating": "the validation split is evaluated",
}


class TrainingWork(AttemptWork):
    """Train until the result is verified."""

    lost_event = "RanksLost"
    passing = "pods"

    def begun(self, number: int) -> dict[str, Any]:
        """Record an attempt and its size: the spec may name another while it is stopped."""
        updates = super().begun(number)
        compute = experiment_of(self.observed).spec.compute
        gpus = compute.nodes * compute.gpus_per_node or None
        ranks = {"world_size": world_size(compute), "gpus": gpus}
        attempt = updates["attempt"].model_copy(update=ranks)
        progress = forgotten(experiment_of(self.observed).status.progress)
        return updates | {"attempt": attempt, "progress": progress}

    def spending(self) -> Spending:
        """Return what its GPUs have cost."""
        return spending(experiment_of(self.observed), self.observed.policy, self.observed.now)

    def held(self, started: datetime | None, news: Mapping[str, Any]) -> dict[str, Any]:
        """Record the running time, and the GPU time that it was."""
        status = experiment_of(self.observed).status
        gpus = status.attempt.gpus
        if not gpus:
            return super().held(started, news)
        ended = ended_gpu_seconds(status) + gpus * seconds_since(started, self.observed.now)
        spent = replace(self.spending(), gpu_seconds=ended)
        return super().held(started, news) | {"cost": self._cost(spent, ended, news)}

    def obstacle(self) -> Obstacle | None:
        """Return what the operator refuses."""
        refusal = run_refusal(self.observed)
        return refused(refusal) if refusal else None

    def pods(self) -> int:
        """Return the number of nodes."""
        return experiment_of(self.observed).spec.compute.nodes

    def job_name(self, number: int) -> str:
        """Return the name of the Job."""
        return attempt_job(self.observed.key.name, number)

    def children(self, number: int) -> tuple[Manifest, ...]:
        """Return what the engine makes of the attempt."""
        experiment = experiment_of(self.observed)
        of = owner(self.observed, attempt=number, spec_digest=spec_digest(experiment.spec))
        wanted = experiment.spec.run_policy.grace_period_seconds
        attempt = Attempt(
            owner=of,
            experiment=experiment,
            config=_config(self.observed, of),
            policy=self.observed.policy,
            grace_seconds=wanted or _grace_seconds(experiment.status.checkpoints),
        )
        return ENGINES[experiment.spec.scheduling.engine].render(attempt)

    def achieved(self, outcome: Outcome) -> Achievement | None:
        """Record the result."""
        summary, experiment = outcome.training, experiment_of(self.observed)
        result, status = _result(outcome), experiment.status
        if summary is None or (result is None and experiment.spec.mode is Mode.TRAIN):
            return None
        updates = self.ended(FailureClass.COMPLETED.value)
        updates |= last_words(status, [outcome])
        progress = _finished(self.observed, outcome)
        updates |= efficiency(status, progress, self.observed.now)
        updates |= {
            "result": result,
            "metrics": merged(status.metrics, summary.metrics),
            "artifacts": artifacts(status.artifacts, outcome),
            "warnings": warnings(status.warnings, outcome),
            "progress": progress,
        }
        message = "the model is evaluated"
        if result is not None:
            message = f"the model is trained; result is step {result.step} ({result.checkpoint})"
        reason = outcome.reason or "Completed"
        return Achievement(Situation.FINISHED, reason, message, updates, self.verdicts(updates))

    def stage(self, job: JobFacts, known: str) -> tuple[str, str]:
        """Return the stage rank 0 reports; until it does again, the one last reported."""
        phase = job.progress.phase if job.progress else known
        reason = _STAGES.get(phase, "Starting")
        return reason, _MESSAGES[reason]

    def seen(self, job: JobFacts) -> dict[str, Any]:
        """Record the Job, its pods and its progress."""
        experiment = experiment_of(self.observed)
        service = ENGINES[job.ref.kind].service(self.observed.key.name, job.attempt)
        updates = seen_attempt(self.observed, job, service=service)
        ready = sum(pod.ready for pod in job.pods)
        updates["pods"] = PodCounts(ready=ready, total=experiment.spec.compute.nodes)
        if job.progress:
            updates |= reported(experiment.status, job.progress, self.observed.now)
        if experiment.status.attempt.gpus and experiment.status.attempt.started_time:
            ended = ended_gpu_seconds(experiment.status)
            updates["cost"] = self._cost(self.spending(), ended, updates)
        return updates

    def can_help(self, failure: FailureClass) -> bool:
        """A micro-batch that is as small as the longest sample cannot be halved."""
        status = experiment_of(self.observed).status
        if failure is not FailureClass.GPU_OUT_OF_MEMORY or status.plan is None:
            return True
        used = status.restarts.gpu_out_of_memory
        more = status.restarts.model_copy(update={"gpu_out_of_memory": used + 1})
        return reduced(status.plan, more) != reduced(status.plan, status.restarts)

    def learned(self, job: JobFacts) -> dict[str, Any]:
        """Record the checkpoints that the pods left."""
        status = experiment_of(self.observed).status
        return last_words(status, [pod.outcome for pod in job.pods if pod.outcome])

    def measured(self, end: End) -> dict[str, Any]:
        """Return the steps of an ended attempt, and the seconds they took."""
        return measured(experiment_of(self.observed).status.progress, end)

    def verdicts(self, updates: Mapping[str, Any]) -> Mapping[str, Verdict]:
        """Everything before training is settled."""
        known = experiment_of(self.observed).status.checkpoints
        return {
            DEPENDENCIES_READY: AS_EXPECTED,
            PLANNED: AS_EXPECTED,
            CHECKPOINT_AVAILABLE: _available(updates.get("checkpoints", known)),
        }

    def notices(self, updates: Mapping[str, Any]) -> tuple[Event, ...]:
        """Return events when damaged checkpoints were set aside, or memory is far off its plan."""
        status = experiment_of(self.observed).status
        found: Checkpoints = updates.get("checkpoints", status.checkpoints)
        notices = []
        if found.quarantined > status.checkpoints.quarantined:
            notices.append(Event("Warning", "Quarantined", _available(found).message))
        spent = self.spending()
        if "cost" in updates and spent.is_noticed_since(status.cost):
            notices.append(Event("Warning", "BudgetNotice", spent.said))
        if off := memory_off_plan(status, updates.get("progress")):
            notices.append(Event("Warning", "MemoryOffPlan", off))
        return tuple(notices)

    def _cost(self, spent: Spending, ended: int, news: Mapping[str, Any]) -> CostStatus:
        before = experiment_of(self.observed).status
        after = before.model_copy(update=news)
        cost = spent.status(ended, remaining=remaining_gpu_seconds(after))
        return with_uses(cost, before, after)


def _config(observed: Observed, of: Owner) -> TrainingConfig:
    experiment = experiment_of(observed)
    status, spec, metadata = experiment.status, experiment.spec, experiment.metadata
    place, plan = location(spec.storage, observed.policy.default_location), status.plan
    return TrainingConfig(
        identity=identity(of),
        spec=spec,
        dataset=settled(status.dataset, "status.dataset"),
        start=status.start,
        model=settled(status.model, "status.model"),
        plan=reduced(settled(plan, "status.plan"), status.restarts),
        prepared_uri=status.preparation.uri,
        prepared_digest=status.preparation.digest,
        location=settled(place, "spec.storage"),
        prefix=storage_prefix(EXPERIMENT, metadata.namespace, metadata.name, metadata.uid),
        ranks=world_size(spec.compute),
        prepared_revision=status.preparation.revision,
        grain=settled(plan, "status.plan").ranks,
        start_deadline_seconds=spec.run_policy.start_deadline_seconds or ONE_DAY,
        known_checkpoints=_known(status.checkpoints),
    )


def _result(outcome: Outcome) -> Result | None:
    chosen, summary = outcome.result, outcome.training
    if chosen is None or summary is None or not (summary.checkpoint_choice and summary.kind):
        return None
    return Result(
        checkpoint=summary.checkpoint_choice,
        step=chosen.step,
        uri=chosen.uri,
        digest=chosen.digest,
        kind=summary.kind,
        reason=summary.reason,
    )


def reduced(plan: PlanStatus, restarts: Restarts) -> PlanStatus:
    """Return the plan with the micro-batch halved once per exhausted GPU memory.

    Which samples form a step does not depend on it, so the run goes on from its checkpoints.
    """
    budget = plan.max_tokens_per_device >> restarts.gpu_out_of_memory
    return plan.model_copy(update={"max_tokens_per_device": max(plan.max_length, budget)})


def _known(checkpoints: Checkpoints) -> list[CheckpointRef]:
    found = {c.digest: c for c in (checkpoints.latest, checkpoints.best) if c}
    return [CheckpointRef(step=c.step, uri=c.uri, digest=c.digest) for c in found.values()]


def _grace_seconds(checkpoints: Checkpoints) -> int:
    """Three times the slowest measured save: a checkpoint fits into it with room to spare."""
    return max(GRACE_SECONDS, round(3 * (checkpoints.save_seconds or 0)))


def _available(checkpoints: Checkpoints) -> Verdict:
    latest = checkpoints.latest
    if latest is None:
        return NOT_YET
    if not checkpoints.quarantined:
        return AS_EXPECTED
    count = checkpoints.quarantined
    noun = "checkpoint was" if count == 1 else "checkpoints were"
    message = f"{count} damaged {noun} set aside; step {latest.step} is the newest verified one"
    return Verdict("True", "Quarantined", message)


def _finished(observed: Observed, said: Outcome) -> ExperimentProgress:
    """Return the progress of a finished run, also of one too short to have been asked."""
    step = said.step
    status = experiment_of(observed).status
    progress, plan = status.progress or ExperimentProgress(), status.plan
    total = plan.total_steps if plan else progress.total_steps
    done = {"percentage": 100, "step": step, "total_steps": total, "stage": "Completed"}
    if plan and step == total and plan.steps_per_epoch:
        done["epoch"] = round(total / plan.steps_per_epoch, 3)
    if said.first_step is not None:
        done |= {"first_step": said.first_step, "step_seconds": said.step_seconds}
    return progress.model_copy(update=done | {"eta": None, "estimated_remaining_seconds": None})
