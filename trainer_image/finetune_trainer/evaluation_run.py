"""Mode Evaluate: one evaluation of the start weights on one split; a restart begins again."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from finetune_api.experiment_status import MetricStatus
from finetune_api.run_config import TrainingConfig
from finetune_api.run_outcome import Artifact, FailureClass, Outcome, TrainingSummary
from finetune_trainer.distributed import World
from finetune_trainer.engine import Engine
from finetune_trainer.evaluate import Evaluation, evaluate, validation_samples
from finetune_trainer.evaluate_mode import main_split
from finetune_trainer.frozen_engine import frozen_engine
from finetune_trainer.objective import reported_names
from finetune_trainer.progress import Board
from finetune_trainer.rank_folder import RankFolder
from finetune_trainer.run_record import RunRecord
from finetune_trainer.run_report import ReportFacts, report_files
from finetune_trainer.sample_answers import SampleAnswers
from finetune_trainer.store import free_folder, open_store
from finetune_trainer.token_cache import open_cache
from finetune_trainer.watchdog import Heartbeat


@dataclass(frozen=True)
class Evaluator:
    """A rank of an evaluation; `board` exists on rank 0 only."""

    config: TrainingConfig
    folder: RankFolder
    world: World
    heartbeat: Heartbeat
    board: Board | None

    def outcome(self) -> Outcome:
        """Load, evaluate, answer the sample prompts, write record and report; collective.

        No optimizer is built, no plan and no checkpoint: whoever stops this loses nothing but
        time.
        """
        engine, form = frozen_engine(self.config, self.folder, self.world, self.heartbeat.beat)
        found = self._evaluation(engine, padded=form.padded)
        answers = SampleAnswers(self.config, self.folder, engine, self.heartbeat.beat)
        samples = answers.of_tuned()
        outcome = Outcome(failure_class=FailureClass.COMPLETED)
        if self.board is not None:
            self.board.count("train_generated_tokens", answers.tokens)
            outcome = self._written(found, samples)
        self.world.tell("written")
        return outcome

    def _evaluation(self, engine: Engine, *, padded: bool) -> Evaluation:
        if self.board is not None:
            self.board.set(phase="Evaluating")
        started, settings = time.monotonic(), self.config.spec.evaluation
        cache = open_cache(self.folder.prepared / "tokens" / self._split)
        found = evaluate(
            engine,
            cache,
            validation_samples(cache, self.config.plan.seed, settings.max_rows),
            budget=self.config.plan.max_tokens_per_device,
            turn=self._turn,
            names=reported_names(settings),
            padded=padded,
        )
        if self.board is not None:
            self.board.observe("train_evaluation_seconds", time.monotonic() - started)
            for name, value in found.values.items():
                self.board.gauge("train_evaluation", value, metric=name)
            self.board.set(metrics=found.values, metrics_rows=found.rows, percentage=90)
        return found

    def _written(self, found: Evaluation, samples: list[dict[str, str]]) -> Outcome:
        """Write the record and the report, each once; return what they say."""
        config, split = self.config, self._split
        summary = TrainingSummary(
            reason=f"the start weights on the {split} split",
            metrics=[
                MetricStatus(name=name, split=split, value=value, step=0, rows=found.rows)
                for name, value in found.values.items()
            ],
        )
        record = RunRecord()
        record.add_evaluation(0, found.values, found.rows)
        home, attempt = open_store(config.location, config.prefix), config.identity.attempt
        values = {"step": 0, "split": split, "rows": found.rows, **found.values}
        place = free_folder(home, f"evaluations/attempt-{attempt}.0/step-0")
        place.write("metrics.json", json.dumps(values, allow_nan=False).encode())
        place = free_folder(home, f"report-{attempt}.0")
        facts = ReportFacts(config, record, summary, samples, self.world.size, split)
        for name, content in report_files(facts).items():
            place.write(name, content)
        report = Artifact(kind="report", uri=f"{place.uri}/report.html")
        return Outcome(failure_class=FailureClass.COMPLETED, training=summary, artifacts=[report])

    @property
    def _split(self) -> str:
        return main_split(self.config.spec)

    def _turn(self) -> None:
        self.heartbeat.beat()
