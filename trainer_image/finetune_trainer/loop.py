"""The steps of a run and its boundaries: late reading, saving, evaluating, stopping."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from finetune_api.training_settings import Checkpoint
from finetune_trainer.agreement import Agreement
from finetune_trainer.cadence import Cadence
from finetune_trainer.checkpoint import Snapshot
from finetune_trainer.data import Prefetch, RankStep, rank_step
from finetune_trainer.engine import Engine
from finetune_trainer.errors import CheckpointedExit
from finetune_trainer.evaluate import evaluate, validation_samples
from finetune_trainer.optim import Schedule
from finetune_trainer.plan import Plan
from finetune_trainer.progress import Board
from finetune_trainer.ring import Ring, StepValues
from finetune_trainer.run_record import RunRecord
from finetune_trainer.saver import Saver
from finetune_trainer.token_cache import TokenCache
from finetune_trainer.watchdog import Heartbeat

log = logging.getLogger("finetune_trainer")

MOST_STEPS_UNREAD = 10
STOP, SAVE = "stop", "save"


@dataclass
class Run:
    """What a rank works with; `board` and `saver` exist on rank 0 only."""

    engine: Engine
    plan: Plan
    train: TokenCache
    validation: TokenCache | None
    schedule: Schedule
    cadence: Cadence
    clip: float
    log_every: int
    evaluation_rows: int | None
    checkpoint: Checkpoint
    record: RunRecord
    agreement: Agreement
    heartbeat: Heartbeat
    snapshot: Callable[[], Snapshot]
    board: Board | None = None
    saver: Saver | None = None

    @property
    def total(self) -> int:
        """Number of steps of the whole run."""
        return self.plan.total_steps


class Loop:
    """Takes the steps from the record's on, up to the last or until all ranks stop."""

    def __init__(self, run: Run) -> None:
        self._run = run
        world = run.engine.world
        every = 1 if world.size == 1 else min(MOST_STEPS_UNREAD, run.log_every)
        self._ring = Ring(every, distributed=world.size > 1)

    def start(self, *, baseline: bool) -> None:
        """Measure the base model, or make up an evaluation that the last attempt missed."""
        run, done = self._run, self._run.record.step
        if (done == 0 and baseline) or (done and run.cadence.evaluates(done)):
            self.evaluate()
        if run.board is not None:
            self._show_saves()
            run.board.resume(run.record, run.total)

    def take_steps(self) -> None:
        """Train to the end; raises CheckpointedExit when all ranks were asked to stop."""
        run, world = self._run, self._run.engine.world
        numbers = range(run.record.step, run.total)
        prefetch = Prefetch(
            lambda number: rank_step(run.train, run.plan, number, world.rank, world.size), numbers
        )
        try:
            for work in prefetch:
                self._carry_out(run.agreement.before_turn())
                self._step(work)
                self._boundary()
        finally:
            prefetch.close()

    def evaluate(self) -> None:
        """Evaluate the validation split now, on all ranks, and publish the numbers."""
        run = self._run
        if run.validation is None or run.record.evaluation(run.record.step) is not None:
            return
        if run.board is not None:
            run.board.set(phase="Evaluating")
        seed, budget = run.plan.settings.seed, run.plan.settings.budget
        samples = validation_samples(run.validation, seed, run.evaluation_rows)
        found = evaluate(run.engine, run.validation, samples, budget=budget, turn=self._turn)
        run.record.add_evaluation(run.record.step, found.values, found.rows)
        if run.saver is not None:
            run.saver.write_evaluation(run.record)
        if run.board is not None:
            _show_evaluation(run.board, run.record, found.values, found.rows)

    def save(self, *, wait: bool = False) -> None:
        """Cut a checkpoint of checked weights; every rank reads its flags, rank 0 writes."""
        run = self._run
        self._take_in(self._ring.drain())
        if run.saver is not None:
            run.saver.save(run.snapshot, run.record, wait=wait)
            self._show_saves()

    def finish_saving(self) -> None:
        """Wait until rank 0 has everything in storage."""
        run = self._run
        if run.saver is not None:
            if run.board is not None:
                run.board.set(phase="Saving")
            run.saver.finish(run.heartbeat.beat)
            self._show_saves()
        run.engine.world.tell(f"saved/{run.record.step}/{run.engine.world.size}")

    def _step(self, work: RankStep) -> None:
        run, step = self._run, work.step
        started = time.monotonic()
        shares = []
        for batch in work.batches:
            run.heartbeat.beat()
            loss = run.engine.loss_sum(batch, last=batch is work.batches[-1])
            run.engine.backward(loss)
            shares.append(loss.detach())
        norm = run.engine.clip_and_step(run.schedule.factor(step.number), run.clip)
        self._ring.close(step.number, sum(shares[1:], shares[0]), norm)
        run.record.step = step.number + 1
        run.record.tokens += step.tokens
        run.record.supervised += step.supervised
        run.record.samples += len(step.samples)
        self._take_in(self._ring.ready())
        seconds = time.monotonic() - started
        run.heartbeat.step_done(run.record.step, seconds)
        if run.board is not None:
            run.board.step(work.step, run.record.step, run.total, seconds=seconds)
            run.board.values(epoch=run.plan.epoch_after(step.number))

    def _boundary(self) -> None:
        run = self._run
        done, saver = run.record.step, run.saver
        last = done == run.total
        if run.cadence.saves(done):
            self.save(wait=last)
        # Rank 0 alone: no collective here, so only the flag of the weights is read.
        elif saver is not None and saver.may_pay and not run.engine.diverged():
            saver.save(run.snapshot, run.record, wait=False)
        if saver is not None:
            self._ask_by_time(saver)
            self._show_saves()
        if run.cadence.evaluates(done):
            self.evaluate()
            if run.board is not None and not last:
                run.board.set(phase="Training")

    def _ask_by_time(self, saver: Saver) -> None:
        limit = self._run.checkpoint.every_seconds
        if limit and time.monotonic() - saver.saved_time > limit:
            saver.saved_time = time.monotonic()
            self._run.agreement.ask(SAVE)

    def _turn(self) -> None:
        self._run.heartbeat.beat()
        if STOP in self._run.agreement.before_turn():
            self._stop()

    def _carry_out(self, wishes: set[str]) -> None:
        if STOP in wishes:
            self._stop()
        if SAVE in wishes:
            self.save()

    def _stop(self) -> None:
        """End all ranks after the same step with that step saved."""
        self.save(wait=True)
        self.finish_saving()
        raise CheckpointedExit(f"stopped on request after step {self._run.record.step}")

    def _take_in(self, values: Iterable[StepValues]) -> None:
        run = self._run
        for one in values:
            done, rate = one.step + 1, run.schedule.rate(one.step)
            point = done % run.log_every == 0 or done == run.total
            run.record.add_values(done, one.loss, rate=rate, norm=one.norm, point=point)
            if run.board is not None:
                run.board.values(loss=one.loss, gradient_norm=one.norm, learning_rate=rate)
                if point:
                    run.board.log(f"step {done}/{run.total}")

    def _show_saves(self) -> None:
        run = self._run
        if run.board is not None and run.saver is not None:
            _show_saves(run.board, run.saver, run.record)


def _show_saves(board: Board, saver: Saver, record: RunRecord) -> None:
    """Put what is verified in storage on the board."""
    known = saver.known()
    ranking = [step for step in record.ranking() if step in known]
    latest = known[max(known)] if known else None
    board.values(
        checkpoint=latest,
        best_checkpoint=known[ranking[0]] if ranking else None,
        save_seconds=saver.save_seconds or None,
        quarantined=saver.quarantined,
    )
    if latest is not None:
        board.gauge("train_checkpoint_step", latest.step)
    board.gauge("train_checkpoints_postponed", saver.postponed)
    board.gauge("train_upload_retries", saver.upload_retries)


def _show_evaluation(board: Board, record: RunRecord, values: dict[str, float], rows: int) -> None:
    for name, value in values.items():
        board.gauge("train_evaluation", value, metric=name)
    board.set(metrics=values, metrics_step=record.step, metrics_rows=rows, best=record.best())
    shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
    log.info("step %d evaluated on %d rows  %s", record.step, rows, shown)
