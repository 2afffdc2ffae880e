"""A rank's run as a table of contents: join, load and resume, train, evaluate, finish."""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import suppress
from types import FrameType

import torch
import transformers

from finetune_api.run_config import TrainingConfig
from finetune_api.run_outcome import EXIT_CODES, Outcome
from finetune_api.training_settings import Mode
from finetune_trainer.determinism import refused_operation
from finetune_trainer.device_memory import out_of_memory
from finetune_trainer.distributed import Signs, agree, join_world, leave_world, peers_watched
from finetune_trainer.entry_point import read_config
from finetune_trainer.errors import (
    CheckpointedExit,
    ExternalServiceError,
    TrainerError,
)
from finetune_trainer.evaluation_run import Evaluator
from finetune_trainer.last_word import outcome_of
from finetune_trainer.loop import STOP, Loop, Run
from finetune_trainer.progress import Board
from finetune_trainer.rank_folder import RankFolder
from finetune_trainer.run_assembly import assembled_run
from finetune_trainer.run_ending import completed, with_facts
from finetune_trainer.sample_answers import SampleAnswers
from finetune_trainer.watchdog import Heartbeat, answer_stack_requests

log = logging.getLogger("finetune_trainer")

SETTLE_SECONDS = 8.0
"""Less than the launcher gives the ranks beside a failed one."""


class Rank:
    """One rank process of an attempt; `run` exists once it is assembled."""

    def __init__(self) -> None:
        self.number = int(os.environ.get("RANK", "0"))
        self.folder = RankFolder.from_environment()
        self.run: Run | None = None
        self.config: TrainingConfig | None = None
        self.stopped = False
        signal.signal(signal.SIGTERM, self._stop)

    def attempt(self) -> Outcome:
        """Train or evaluate to the end, on all ranks together; raises what ended it early."""
        config = read_config("train")
        assert isinstance(config, TrainingConfig)  # noqa: S101 - for mypy
        self.config = config
        heartbeat, board = Heartbeat(self.folder.heartbeat(self.number)), self._board(config)
        with peers_watched():
            world = join_world(
                config.identity.run,
                Signs(heartbeat.beat, board.joined if board is not None else lambda _: None),
                deadline_seconds=config.start_deadline_seconds,
                timeout_seconds=config.spec.compute.collective_timeout_seconds,
            )
            agree(world, {"world": world.size, "config": config.model_dump(mode="json")})
            if config.spec.mode is Mode.EVALUATE:
                outcome = Evaluator(config, self.folder, world, heartbeat, board).outcome()
            else:
                self.run = assembled_run(config, self.folder, world, heartbeat, board)
                outcome = self._common_end(config, self.run)
            leave_world(world)
        return outcome

    def _common_end(self, config: TrainingConfig, run: Run) -> Outcome:
        """Train until all ranks end together: at the last step, or where they agree to stop."""
        loop = Loop(run)
        answers = SampleAnswers(config, self.folder, run.engine, run.heartbeat.beat)
        try:
            if run.record.step == 0:
                answers.of_base(run.record)
            loop.start(baseline=config.spec.evaluation.at_start)
            loop.take_steps()
            return completed(config, run, loop, answers)
        except CheckpointedExit as stopped:
            return with_facts(outcome_of(stopped), run)

    def _board(self, config: TrainingConfig) -> Board | None:
        if self.number:
            return None
        labels = {"experiment": config.identity.name, "attempt": str(config.identity.attempt)}
        board = Board(self.folder.path, config.identity.run, labels)
        board.set(ranks_expected=config.ranks)
        return board

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        if self.run is None:
            self.stopped = True
            raise CheckpointedExit("stopped on request before the first step")
        self.run.agreement.ask(STOP)


def rank_process() -> int:
    """Run one rank; leave its outcome for the launcher and return the exit code."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    transformers.utils.logging.disable_progress_bar()
    answer_stack_requests()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    rank = Rank()
    try:
        outcome = rank.attempt()
    except CheckpointedExit as stopped:
        outcome = outcome_of(stopped)
    except Exception as error:  # the one place where classes become exit codes
        log.exception("rank %d failed", rank.number)
        if not isinstance(error, ExternalServiceError):
            _settle(rank.run)
        outcome = with_facts(outcome_of(_translated(error, rank)), rank.run)
    rank.folder.set_ending(rank.number, outcome.model_copy(update={"rank": rank.number}))
    return EXIT_CODES[outcome.failure_class]


def _settle(run: Run | None) -> None:
    """Give a checkpoint that is being written a moment; the run ends as it does either way."""
    if run is not None:
        with suppress(TrainerError):
            run.saving.finish(run.heartbeat.beat, SETTLE_SECONDS)


def _translated(error: Exception, rank: Rank) -> Exception:
    if rank.stopped:
        # What was at work, such as a compiler, may have wrapped the exit.
        return CheckpointedExit("stopped on request before the first step")
    if isinstance(error, torch.OutOfMemoryError) and rank.config is not None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return out_of_memory(rank.config, rank.folder.model, device)
    return refused_operation(error) or error
