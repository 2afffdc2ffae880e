"""The steps of a run and its boundaries: late reading, saving, evaluating, stopping."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from finetune_api.finetune_experiment import ExperimentSpec
from finetune_trainer.agreement import Agreement
from finetune_trainer.cadence import Cadence
from finetune_trainer.data import Prefetch, RankStep, Split, rank_step
from finetune_trainer.early_stopping import EarlyStopping
from finetune_trainer.engine import Engine
from finetune_trainer.errors import CheckpointedExit, NotFiniteError
from finetune_trainer.evaluate import Evaluation, evaluate, validation_samples
from finetune_trainer.non_finite import RollbackDueError, judge
from finetune_trainer.objective import reported_names
from finetune_trainer.plan import Plan
from finetune_trainer.progress import Board
from finetune_trainer.rate_schedule import Schedule
from finetune_trainer.result_report import show_evaluation, show_saves
from finetune_trainer.ring import Ring, StepValues
from finetune_trainer.run_record import RunRecord
from finetune_trainer.saver import Saver
from finetune_trainer.saving import Saving
from finetune_trainer.step_clock import BACKWARD, DATA, FORWARD, OPTIMIZER, StepClock
from finetune_trainer.step_flops import ModelFlops, peak_flops
from finetune_trainer.step_report import Machine, StepReport
from finetune_trainer.token_cache import TokenCache
from finetune_trainer.watchdog import Heartbeat

log = logging.getLogger("finetune_trainer")

MOST_STEPS_UNREAD = 10
ROLLBACK_FACTOR = 0.5
STOP, SAVE = "stop", "save"


@dataclass
class Run:
    """What a rank works with; `board` and `saver` exist on rank 0 only."""

    spec: ExperimentSpec
    engine: Engine
    plan: Plan
    flops: ModelFlops
    train: Split
    validation: TokenCache | None
    schedule: Schedule
    cadence: Cadence
    record: RunRecord
    agreement: Agreement
    heartbeat: Heartbeat
    saving: Saving
    restore: Callable[[str, int | None], dict[str, Any] | None]
    """restore(key, step) loads the newest verified checkpoint, or that of a step, and returns its
    record, None if there is none; a collective call, each with its own key."""
    board: Board | None = None
    saver: Saver | None = None

    @property
    def total(self) -> int:
        """Number of steps of the whole run."""
        return self.plan.total_steps

    def evaluated(self, cache: TokenCache, turn: Callable[[], None]) -> Evaluation:
        """Evaluate a split with the weights as they are; `turn` as in `evaluate`; collective."""
        if self.board is not None:
            self.board.set(phase="Evaluating")
        settings, asked = self.plan.settings, self.spec.evaluation
        return evaluate(
            self.engine,
            cache,
            validation_samples(cache, settings.seed, asked.max_rows),
            budget=settings.budget,
            turn=turn,
            names=reported_names(asked),
            padded=settings.padded,
        )

    def factor(self, step: int) -> float:
        """Return rate / peak of an update, lowered by every rollback so far."""
        lowered = self.spec.training.rollback_factor or ROLLBACK_FACTOR
        return self.schedule.factor(step) * lowered**self.record.rollbacks


class Loop:
    """Takes the steps from the record's on, up to the last or until all ranks stop."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._ring, self._clock = _ring(run), StepClock(run.engine.device)
        self._report = _report(run)
        self._policy = run.spec.training.non_finite_policy
        evaluation = run.spec.evaluation
        self._stopping = EarlyStopping(
            run.record.objective,
            evaluation.early_stopping_patience,
            evaluation.early_stopping_threshold,
        )

    def start(self, *, baseline: bool) -> None:
        """Measure the base model, or make up an evaluation that the last attempt missed."""
        run, done = self._run, self._run.record.step
        if (done == 0 and baseline) or (done and run.cadence.evaluates(done)):
            self.evaluate()
        if run.board is not None:
            show_saves(run.board, run.saver, run.record)
            run.board.resume(run.record, run.total)

    def take_steps(self) -> None:
        """Train to the end; raises CheckpointedExit when all ranks were asked to stop."""
        while True:
            try:
                self._take_steps()
                break
            except RollbackDueError as due:
                self._roll_back(due)
        self.save(wait=True)

    def evaluate(self) -> None:
        """Evaluate the validation split now, on all ranks, and publish the numbers."""
        run, started = self._run, time.monotonic()
        if run.validation is None or run.record.evaluation(run.record.step) is not None:
            return
        found = run.evaluated(run.validation, self._turn)
        run.record.add_evaluation(run.record.step, found.values, found.rows)
        if run.saver is not None:
            run.saver.write_evaluation(run.record.evaluations[-1])
        if run.board is not None:
            run.board.observe("train_evaluation_seconds", time.monotonic() - started)
            show_evaluation(run.board, run.record, found)

    def save(self, *, wait: bool = False) -> None:
        """Cut a checkpoint of checked weights; every rank reads its flags, rank 0 writes."""
        run, started = self._run, time.monotonic()
        self._read(everything=True)
        run.saving.cut(run.record, run.heartbeat.beat, wait=wait)
        if run.board is not None:
            if run.saver is not None and run.saver.saved_time >= started:
                run.board.observe("train_checkpoint_stall_seconds", time.monotonic() - started)
            show_saves(run.board, run.saver, run.record)

    def finish_saving(self) -> None:
        """Wait until rank 0 has everything in storage."""
        run = self._run
        if run.saver is not None and run.board is not None:
            run.board.set(phase="Saving")
        run.saving.finish(run.heartbeat.beat)
        if run.board is not None:
            show_saves(run.board, run.saver, run.record)
        run.engine.world.tell(f"saved/{run.record.step}/{run.engine.world.size}")

    def _take_steps(self) -> None:
        run, world = self._run, self._run.engine.world
        prefetch = Prefetch(
            lambda number: rank_step(run.train, run.plan, number, world.rank, world.size),
            range(run.record.step, run.total),
        )
        self._clock.begin()
        try:
            for work in prefetch:
                if self._stopping.due(run.record.evaluations):
                    return
                self._carry_out(run.agreement.before_turn())
                self._step(work)
                self._boundary()
            self._read(everything=True)
        finally:
            prefetch.close()

    def _step(self, work: RankStep) -> None:
        run, clock, started = self._run, self._clock, time.monotonic()
        clock.mark(DATA)
        shares = []
        for batch in work.batches:
            run.heartbeat.beat()
            loss = run.engine.loss_sum(batch, last=batch is work.batches[-1])
            clock.mark(FORWARD)
            run.engine.backward(loss)
            clock.mark(BACKWARD)
            shares.append(run.engine.task.parts(loss))
        factor = run.factor(work.step.number)
        norm = run.engine.clip_and_step(factor, run.spec.training.max_grad_norm)
        clock.mark(OPTIMIZER)
        clock.close()
        self._ring.close(work.step.number, sum(shares[1:], shares[0]), norm)
        run.record.count(work.step)
        if self._report is not None:
            self._report.issued(work.step)
        self._read()
        run.heartbeat.step_done(run.record.step, time.monotonic() - started)

    def _read(self, *, everything: bool = False) -> None:
        """Take in what the device has told; `everything` waits, as before a checkpoint."""
        run, ring, scaled = self._run, self._ring, self._run.engine.scales_loss
        for step, norm in ring.norms(all_of_them=everything):
            judge(run.record, self._policy, step, norm, scaled=scaled)
        self._take_in(ring.rest() if everything else ring.values(wait=scaled))
        if self._report is not None:
            self._report.finished(self._clock.ready())

    def _boundary(self) -> None:
        run = self._run
        done, saver = run.record.step, run.saver
        if run.cadence.saves(done):
            self.save(wait=done == run.total)
        elif saver is not None and saver.may_pay:
            run.agreement.ask(SAVE)
        if saver is not None:
            self._ask_by_time(saver)
        if run.cadence.evaluates(done):
            self.evaluate()
            # A checkpoint that was postponed is cut now: no evaluation without its weights.
            if run.cadence.resumable:
                self.save(wait=True)
            self._clock.begin()
            if run.board is not None and done != run.total:
                run.board.set(phase="Training")

    def _roll_back(self, due: RollbackDueError) -> None:
        """Go on from the newest verified checkpoint at a lower rate, on all ranks."""
        run = self._run
        run.record.rollbacks += 1
        self._ring.clear()
        self._ring, self._clock = _ring(run), StepClock(run.engine.device)
        run.saving.finish(run.heartbeat.beat)
        state = run.restore(f"rollback/{run.record.rollbacks}", None)
        if state is None:
            raise NotFiniteError(f"{due}, and there is no checkpoint to go back to") from due
        run.record.take_over(state)
        run.engine.forgive()
        log.warning("%s; step %d again, at a lower rate", due, run.record.step)
        if self._report is not None and run.board is not None:
            self._report.forget()
            run.board.resume(run.record, run.total)

    def _ask_by_time(self, saver: Saver) -> None:
        limit = self._run.spec.checkpoint.every_seconds if self._run.cadence.resumable else 0
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
        """End all ranks after the same step with that step saved, if this run saves any."""
        if self._run.cadence.resumable:
            try:
                self.save(wait=True)
            except RollbackDueError:
                log.warning("the last step is not finite; the next attempt meets it again")
        self.finish_saving()
        raise CheckpointedExit(f"stopped on request after step {self._run.record.step}")

    def _take_in(self, values: Iterable[StepValues]) -> None:
        run = self._run
        for one in values:
            if run.engine.scales_loss:
                judge(run.record, self._policy, one.step, one.loss)
            done, rate = one.step + 1, run.schedule.peak * run.factor(one.step)
            point = done % run.spec.tracking.log_every_steps == 0 or done == run.total
            run.record.add_values(done, one.loss, rate=rate, norm=one.norm, point=point)
            if run.board is not None and one.finite:
                run.board.values(
                    loss=one.loss,
                    router_loss=one.router,
                    gradient_norm=one.norm,
                    learning_rate=rate,
                )
            if run.board is not None and point:
                run.board.log(f"step {done}/{run.total}")


def _ring(run: Run) -> Ring:
    world = run.engine.world
    every = 1 if world.size == 1 else min(MOST_STEPS_UNREAD, run.spec.tracking.log_every_steps)
    return Ring(every, distributed=world.size > 1)


def _report(run: Run) -> StepReport | None:
    if run.board is None:
        return None
    machine = Machine(run.engine.world.size, peak_flops(run.engine.device))
    return StepReport(run.board, run.plan, run.flops, machine)
