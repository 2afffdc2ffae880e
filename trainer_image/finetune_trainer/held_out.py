"""The test split: evaluated once, at the end, with the weights that are the result."""

from __future__ import annotations

from pathlib import Path

from finetune_trainer.loop import Run
from finetune_trainer.split import TEST
from finetune_trainer.token_cache import open_cache


def evaluate_held_out(prepared: Path, run: Run, step: int) -> None:
    """Put the metrics of the test split into the record, if there is one; a collective call.

    The engine holds the weights of `step`. Nothing is decided by these numbers.
    """
    folder = prepared / "tokens" / TEST
    cache = open_cache(folder) if folder.is_dir() else None
    if not cache:
        return
    found = run.evaluated(cache, run.heartbeat.beat)
    run.record.test = {"step": step, "rows": found.rows, **found.values}
    if run.saver is not None:
        run.saver.write_evaluation(run.record.test, TEST)
