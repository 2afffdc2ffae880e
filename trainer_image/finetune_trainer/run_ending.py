"""How a run ends: the result is chosen and reported, the outcome says what there is."""

from __future__ import annotations

from typing import Literal

from finetune_api.evaluation_settings import CheckpointPolicy, ResultChoice
from finetune_api.experiment_status import MetricStatus
from finetune_api.model_settings import AdapterType
from finetune_api.run_config import TrainingConfig
from finetune_api.run_outcome import CheckpointRef, FailureClass, Outcome, TrainingSummary
from finetune_trainer.errors import ExternalServiceError
from finetune_trainer.held_out import evaluate_held_out
from finetune_trainer.loop import Loop, Run
from finetune_trainer.run_record import RunRecord
from finetune_trainer.run_report import ReportFacts, report_files
from finetune_trainer.sample_answers import SampleAnswers
from finetune_trainer.saver import Saver
from finetune_trainer.split import TEST, VALIDATION


def completed(config: TrainingConfig, run: Run, loop: Loop, answers: SampleAnswers) -> Outcome:
    """Load the result, answer the samples, write the report; return the outcome; collective."""
    loop.finish_saving()
    step = _load_result(config, run)
    evaluate_held_out(answers.folder.prepared, run, step)
    samples = answers.of_tuned(run.record)
    if run.board is not None:
        run.board.count("train_generated_tokens", answers.tokens)
    reason = "EarlyStopped" if run.record.step < run.total else ""
    outcome = Outcome(failure_class=FailureClass.COMPLETED, reason=reason)
    if run.saver is not None:
        result, summary = _result(config, run.record, run.saver)
        facts = ReportFacts(config, run.record, summary, samples, run.engine.world.size)
        run.saver.write_report(report_files(facts))
        run.saver.retain(sorted(run.record.kept_steps(config.spec.checkpoint)))
        outcome = outcome.model_copy(update={"result": result, "training": summary})
    loop.finish_saving()
    run.agreement.close()
    return with_facts(outcome, run)


def _load_result(config: TrainingConfig, run: Run) -> int:
    """Give every rank the weights that are the result; return their step."""
    step = 0
    if run.saver is not None:
        result, _ = _result(config, run.record, run.saver)
        step = 0 if result is None else result.step
    step = run.engine.world.tell("result", step) or run.record.step
    if step != run.record.step and run.restore("result/record", step) is None:
        raise ExternalServiceError(
            f"the checkpoint of step {step}, the result, cannot be read again; repair the storage"
        )
    return step


def with_facts(outcome: Outcome, run: Run | None) -> Outcome:
    """Return the outcome with what rank 0 knows: step, checkpoints, best, artifacts."""
    if run is None:
        return outcome
    update: dict[str, object] = {"step": run.record.step, "best": run.record.best()}
    if run.board is not None:
        update |= run.board.attempt()
    if run.saver is not None:
        known = run.saver.known()
        best = next((step for step in run.record.ranking() if step in known), None)
        update |= {
            "checkpoint": known[max(known)] if known else None,
            "best_checkpoint": known[best] if best is not None else None,
            "quarantined": run.saver.quarantined,
            "artifacts": run.saver.artifacts[-4:],
        }
    return outcome.model_copy(update=update)


def _result(
    config: TrainingConfig, record: RunRecord, saver: Saver
) -> tuple[CheckpointRef | None, TrainingSummary]:
    known = saver.known()
    ranked = [step for step in record.ranking() if step in known]
    choice: Literal["Best", "Last"] = "Last"
    reason = "no objective was evaluated"
    if config.spec.checkpoint.policy is CheckpointPolicy.NONE:
        reason = "spec.checkpoint.policy is None"
    elif config.spec.checkpoint.result is ResultChoice.LAST:
        reason = "spec.checkpoint.result is Last"
    elif ranked and record.objective is not None:
        choice, reason = "Best", f"best {record.objective.name}, at step {ranked[0]}"
    step = ranked[0] if choice == "Best" else max(known, default=0)
    kind: Literal["Adapter", "Model"] = (
        "Model" if config.spec.adapter.type is AdapterType.NONE else "Adapter"
    )
    summary = TrainingSummary(
        checkpoint_choice=choice, kind=kind, reason=reason, metrics=_metrics(config, record, step)
    )
    return known.get(step), summary


def _metrics(config: TrainingConfig, record: RunRecord, step: int) -> list[MetricStatus]:
    """Return the numbers of the baseline, if measured, of the result, and of the test split."""
    validated = [one for one in (record.evaluation(0), record.evaluation(step)) if one is not None]
    found = [(VALIDATION, one) for one in validated]
    found += [(TEST, record.test)] if record.test else []
    return [
        MetricStatus(
            name=name,
            split=split,
            value=value,
            step=int(one["step"]),
            rows=int(one["rows"]),
            seen_in_training=config.plan.validation_seen and split == VALIDATION,
        )
        for split, one in found
        for name, value in one.items()
        if name not in ("step", "rows")
    ]
