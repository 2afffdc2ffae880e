"""Real tokens per second of the trainer against its peers on one machine, pair by pair.

    make bench-train
    python benchmarks/train_speed.py --pairs 5 --only Trainer --mode LoRA

Same model, samples, batch and optimizer for all; see `docs/benchmarks.md` for how to read it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from bench_report import Figure, median, ratio, report
from contender_turns import Contender, compete
from train_task import Job, model_folder, samples

SCRIPT = Path(__file__).with_name("train_contender.py")
STEPS = 5
SAME_STEPS = ("Trainer", "TRL", "TRL, padding-free")
"""Peers that follow our order exactly: their losses must be ours."""
TARGETS = {
    "Trainer": 2.5,
    "Trainer, grouped": 1.2,
    "TRL": 3.0,
    "TRL, packing": 2.0,
    "TRL, padding-free": 2.0,
}
STUDIO = {2: 2.5, 8: 4.0}
"""Targets of the studio step by samples per step."""
PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate")


def main() -> None:
    """Run every pairing that was asked for and print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", action="append", help="a peer; may be repeated")
    parser.add_argument("--mode", choices=("LoRA", "full"), action="append")
    chosen = parser.parse_args()
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        model = model_folder(Path(folder) / "model")
        for mode in chosen.mode or ("LoRA", "full"):
            for peer, target in TARGETS.items():
                if peer in (chosen.only or TARGETS):
                    job = Job(mode == "full", batch=8, steps=STEPS, epochs=chosen.pairs + 1)
                    figures += pairing(f"{mode} / {peer}", peer, job, model, target)
        for batch, target in STUDIO.items():
            if "studio step" in (chosen.only or ["studio step"]):
                job = Job(
                    full=False,
                    batch=batch,
                    steps=8 * STEPS // batch,
                    epochs=chosen.pairs + 1,
                    autocast=True,
                    dropout=0.05,
                )
                name = f"LoRA / studio step, batch {batch}"
                figures += pairing(name, "studio step", job, model, target)
    report(figures, PACKAGES)


def pairing(name: str, peer: str, job: Job, model: Path, target: float) -> list[Figure]:
    """Let us and one peer take turns; return ratio and both rates."""
    arguments: dict[str, Any] = asdict(job) | {"model": str(model)}
    pairs = job.epochs - 1
    ours, theirs = compete(SCRIPT, ["ours", peer], [arguments, arguments], pairs)
    check_learning(name, ours, theirs, exact=peer in SAME_STEPS)
    tokens = int(samples(job.samples).lengths.sum())
    rates = [[tokens / seconds for seconds in one.seconds] for one in (ours, theirs)]
    figures = [
        ratio(f"{name}: ratio", *rates, target),
        ratio(f"{name}: ratio of core seconds", theirs.core_seconds, ours.core_seconds),
        median(f"{name}: ours", rates[0], "tokens/s"),
        median(f"{name}: peer", rates[1], "tokens/s"),
        Figure(f"{name}: our peak memory", ours.ending["peak_mb"], "MB"),
        Figure(f"{name}: peer's peak memory", theirs.ending["peak_mb"], "MB"),
    ]
    print(figures[0].line(), figures[1].line(), file=sys.stderr, sep="\n", flush=True)
    return figures


def check_learning(name: str, ours: Contender, theirs: Contender, *, exact: bool) -> None:
    """Raise unless both learned; peers with the same steps must have had the same losses."""
    curves = [one.ending["losses"] for one in (ours, theirs)]
    for curve in curves:
        later = np.mean(curve[len(curve) // 2 :])  # one epoch alone is too noisy where rows are few
        assert later < curve[0] - 0.1, f"{name}: nothing was learned: {curve}"
    apart = np.abs(np.subtract(*curves)).max()
    assert apart < (1e-3 if exact else 1.0), f"{name}: losses differ by {apart}: {curves}"


if __name__ == "__main__":
    main()
