"""How long a checkpoint holds the steps up when storage takes a second per megabyte.

    python benchmarks/checkpoint_stall.py

The stall is the time from the end of a step that is saved to the end of the next one, less what
a step takes otherwise: copying the state, starting the write, and what the write takes from the
steps beside it. All samples are equally long, so that steps differ by the machine only.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_report import Figure, median, report
from train_task import ALPHA, RANK, SPOKEN, model_folder

from finetune_trainer.loop import Loop
from finetune_trainer.path_store import PathStore
from finetune_trainer.token_cache import TokenCache

EVERY, SAVES, BATCH, TOKENS = 80, 6, 4, 64
SECONDS_PER_MB, TARGET_MS = 1.0, 50.0


def slow_store() -> None:
    """Make every write of this process take its time."""
    write = PathStore.write

    def slowly(self: PathStore, name: str, data: bytes | Iterable[bytes]) -> Any:
        return write(self, name, _delayed([data] if isinstance(data, bytes) else data))

    PathStore.write = slowly  # type: ignore[method-assign]


def _delayed(chunks: Iterable[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        time.sleep(SECONDS_PER_MB * len(chunk) / 1e6)
        yield chunk


def step_ends(folder: Path, blocked: list[float]) -> tuple[list[float], list[int]]:
    """Train with a checkpoint every `EVERY` steps; return when steps ended and which were saved.

    `blocked` takes the milliseconds of each call that cuts one.
    """
    sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
    from one_rank import one_rank  # noqa: PLC0415 - where the tests are is known from here on

    steps = EVERY * SAVES + 1
    count = steps * BATCH
    tokens = np.concatenate([2 + (i + np.arange(TOKENS)) % SPOKEN for i in range(count)])
    cache = TokenCache(
        tokens=tokens.astype(np.uint32),
        flags=np.ones(len(tokens), np.uint8),
        offsets=np.arange(count + 1, dtype=np.int64) * TOKENS,
        rows=np.arange(count, dtype=np.uint32),
    )
    plan = {"globalBatchSize": BATCH, "totalSteps": steps, "stepsPerEpoch": steps, "epochs": 1.0}
    plan |= {"maxTokensPerDevice": BATCH * TOKENS, "rank": RANK, "alpha": float(ALPHA)}
    saves = {"everySteps": EVERY, "everySeconds": 0, "keepLast": 100}
    run = one_rank(folder, model_folder(folder / "model"), cache, plan, checkpoint=saves)
    ends: list[float] = []
    beat, cut = run.heartbeat.step_done, run.saving.cut

    def timed_cut(*arguments: Any, **options: Any) -> None:
        started = time.perf_counter()
        cut(*arguments, **options)
        blocked.append(1e3 * (time.perf_counter() - started))

    def step_done(done: int, seconds: float) -> None:
        beat(done, seconds)
        ends.append(time.perf_counter())

    run.heartbeat.step_done = step_done  # type: ignore[method-assign]
    run.saving.cut = timed_cut  # type: ignore[method-assign]
    loop = Loop(run)
    loop.take_steps()
    loop.finish_saving()
    written = folder.glob("claims/**/step-*/manifest.json")
    return ends, sorted(int(one.parent.name.removeprefix("step-")) for one in written)


def main() -> None:
    """Measure once and print the report."""
    torch.set_num_threads(1)
    slow_store()
    blocked: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        ends, saved = step_ends(Path(folder), blocked)
        sizes = Path(folder).glob(f"claims/**/step-{EVERY}/*")
        megabytes = sum(one.stat().st_size for one in sizes) / 1e6
    milliseconds = np.diff(ends) * 1e3
    after = {step - 1 for step in saved if step < len(ends)}
    plain = statistics.median(v for i, v in enumerate(milliseconds) if i not in after)
    stalls = [float(milliseconds[i] - plain) for i in sorted(after)]
    if len(stalls) < SAVES:
        print(f"{SAVES - len(stalls)} checkpoints were postponed: steps too fast", file=sys.stderr)
    spread = min(stalls), max(stalls)
    stall = statistics.median(stalls)
    report(
        [
            Figure("checkpoint: stall", stall, "ms", TARGET_MS, at_most=True, spread=spread),
            median("checkpoint: cut", blocked[:-1], "ms"),  # the last one waits for the end
            Figure("checkpoint: step without one", plain, "ms"),
            Figure("checkpoint: size", megabytes, "MB"),
        ],
        ("torch",),
    )


if __name__ == "__main__":
    main()
