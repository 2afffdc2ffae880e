"""Puts evaluations and verified checkpoints on rank 0's board."""

from __future__ import annotations

import logging
import time

from finetune_trainer.evaluate import Evaluation
from finetune_trainer.progress import Board
from finetune_trainer.run_record import RunRecord
from finetune_trainer.saver import Saver

log = logging.getLogger("finetune_trainer")


def show_evaluation(board: Board, record: RunRecord, found: Evaluation) -> None:
    """Show an evaluation that the record has taken in."""
    for name, value in found.values.items():
        board.gauge("train_evaluation", value, metric=name)
    board.set(
        metrics=found.values, metrics_step=record.step, metrics_rows=found.rows, best=record.best()
    )
    shown = "  ".join(f"{name} {value:.4g}" for name, value in found.values.items())
    log.info("step %d evaluated on %d rows  %s", record.step, found.rows, shown)


def show_saves(board: Board, saver: Saver | None, record: RunRecord) -> None:
    """Show what is verified in storage, and updates that were not applied."""
    board.total("train_skipped_updates", record.skipped + record.overflows)
    board.total("train_rollbacks", record.rollbacks)
    board.values(skipped_updates=record.skipped + record.overflows, rollbacks=record.rollbacks)
    if saver is None:
        return
    known = saver.known()
    best = next((step for step in record.ranking() if step in known), None)
    board.values(
        checkpoint=known[max(known)] if known else None,
        best_checkpoint=None if best is None else known[best],
        save_seconds=saver.save_seconds or None,
        quarantined=saver.quarantined,
        checkpoint_age_seconds=saver.last_time and time.time() - saver.last_time,
    )
    if known:
        board.gauge("train_checkpoint_step", max(known))
    if saver.last_time:
        board.gauge("train_checkpoint_timestamp_seconds", saver.last_time)
    while saver.write_seconds:
        board.observe("train_checkpoint_write_seconds", saver.write_seconds.popleft())
    board.total("train_checkpoint_bytes", saver.written_bytes)
    board.gauge("train_upload_lag_seconds", saver.lag_seconds)
    board.total("train_checkpoints_postponed", saver.postponed)
    board.total("train_upload_retries", saver.upload_retries)
