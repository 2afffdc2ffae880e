"""LoRA of an 8B shape and what surrounds it on one GPU, against transformers.Trainer and TRL.

    python benchmarks/train_gpu.py --case "ours, chat" --case "TRL, packing, chat"
    python benchmarks/train_gpu.py --shape tiny --warmup 1 --timed 2    # tries itself out, no GPU

Five warm-up and twenty timed steps per contender, each in its own process; all contenders twice,
the second time in reverse order; the rate of plain matrix products before and after. Weights are
random and drawn on the device: speed does not depend on what a model knows.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from bench_report import Figure, report
from gpu_contender import samples
from gpu_task import matrix_rate

ROOT = Path(__file__).resolve().parents[1]
SCRIPT, TASK = (Path(__file__).with_name(f"gpu_{one}.py") for one in ("contender", "task"))
CASE: dict[str, Any] = {
    "trainer": "ours",
    "mode": {},
    "full": False,
    "batch": 64,
    "length": 0,
    "budget": 8192,
    "rows": 8,
    "accumulation": 8,
    "checkpointing": False,
    "quantization": "None",
    "compile": "Never",
}
LONG = {"length": 4096, "batch": 8, "rows": 2, "accumulation": 4}
RECOMPUTED = {"checkpointing": True}
PACKING = {"packing": True, "max_length": 2048}
CASES: dict[str, dict[str, Any]] = {
    "ours, chat": {},
    "ours, chat, 16k": {"budget": 16_384},
    "ours, chat, compiled": {"compile": "Always"},
    "ours, chat, recomputed": RECOMPUTED,
    "ours, NF4, chat": {"quantization": "NF4"},
    "ours, 4,096 tokens": LONG,
    "ours, NF4, 4k, recomputed": LONG | RECOMPUTED | {"quantization": "NF4", "budget": 4096},
    "ours, full 3B": {"full": True, "shape": "3b"},
    "Trainer, chat": RECOMPUTED | {"trainer": "Trainer"},
    "TRL, packing, chat": RECOMPUTED
    | {"trainer": "TRL", "mode": PACKING, "rows": 3, "accumulation": 4},
    "TRL, padding-free, chat": RECOMPUTED
    | {"trainer": "TRL", "mode": {"padding_free": True, "max_length": None}},
    "TRL, 4,096 tokens": LONG | RECOMPUTED | {"trainer": "TRL", "mode": {"max_length": 4096}},
}
"""What differs from `CASE`. Peers recompute all layers: without, they do not fit 80 GB."""
RATIOS = (
    ("ours, chat", "Trainer, chat", 2.5),
    ("ours, chat", "TRL, packing, chat", 1.3),
    ("ours, chat", "TRL, padding-free, chat", 1.3),
    ("ours, 4,096 tokens", "TRL, 4,096 tokens", 1.3),
    ("ours, NF4, chat", "ours, chat", 0.92),
)
TARGETS = {
    ("ours, chat", "mfu"): 0.55,
    ("ours, chat", "tokens/s"): 18_000,
    ("ours, 4,096 tokens", "tokens/s"): 15_000,
    ("ours, full 3B", "mfu"): 0.45,
}
LIMITS = {
    ("ours, chat", "allocated_gb"): 56,
    ("ours, chat, recomputed", "allocated_gb"): 24,
    ("ours, NF4, 4k, recomputed", "allocated_gb"): 12,
    ("ours, chat", "cut_seconds"): 0.1,
    ("ours, chat", "first_step_seconds"): 45,
}
UNITS = {
    "tokens/s": "tokens/s",
    "supervised/s": "tokens/s",
    "mfu": "share",
    "of_matrix_rate": "share",
    "allocated_gb": "GB",
    "reserved_gb": "GB",
    "first_step_seconds": "s",
    "cut_seconds": "s",
    "seconds_per_1000_generated": "s",
}
PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "flash_attn")


def main() -> None:
    """Run the chosen cases forwards and backwards and print the report."""
    chosen = _arguments()
    names = chosen.case or list(CASES)
    cases = {name: _case(name, chosen) for name in names}
    rates = [matrix_rate()] if torch.cuda.is_available() else []
    with tempfile.TemporaryDirectory(dir=chosen.scratch) as folder:
        for shape in {case["shape"] for case in cases.values()}:
            _draw_weights(Path(folder) / shape, shape)
        passes = [
            {name: measured(name, cases[name], Path(folder)) for name in turn}
            for turn in (names, names[::-1])
        ]
    rates += [matrix_rate()] if torch.cuda.is_available() else []
    rate = statistics.mean(rates) if rates else None
    report([*_ceiling(rates), *figures(cases, passes, rate)], PACKAGES)


def measured(name: str, case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run one contender; return what it told, or why it could not."""
    target, case = folder / "facts.json", case | {"model": str(folder / case["shape"])}
    paths = [str(ROOT / one) for one in ("operator", "trainer_image", "tests", "benchmarks")]
    target.unlink(missing_ok=True)
    subprocess.run(
        [sys.executable, str(SCRIPT), json.dumps(case), str(target)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONWARNINGS": "ignore"},
        check=False,
    )
    if not target.exists():
        print(f"{name}: ended without a result", file=sys.stderr)
        return {}
    facts: dict[str, Any] = json.loads(target.read_text())
    assert all(map(math.isfinite, facts["losses"])), f"{name}: {facts['losses']}"
    print(json.dumps({name: facts}), file=sys.stderr, flush=True)
    return facts


def figures(
    cases: dict[str, dict[str, Any]], passes: list[dict[str, Any]], rate: float | None
) -> list[Figure]:
    """Return the figures of every contender that ended in both passes, and the ratios."""
    told = {name: [one[name] for one in passes if one[name]] for name in cases}
    told = {name: both for name, both in told.items() if len(both) == len(passes)}
    flops = next((both[0]["flops"] for both in told.values() if "flops" in both[0]), None)
    found: list[Figure] = []
    speeds: dict[str, list[float]] = {}
    for name, both in told.items():
        work = _work(cases[name])
        speeds[name] = [work["tokens"] / one["seconds"] for one in both]
        values = {key: [one[key] for one in both if key in one] for key in UNITS}
        values |= {"tokens/s": speeds[name]}
        values |= {"supervised/s": [work["rows"] / one["seconds"] for one in both]}
        values |= _utilisation(both, both[0].get("flops", flops), work, rate)
        found += [_figure(name, key, list(values[key])) for key in UNITS if values[key]]
    for one, other, target in RATIOS:
        if one in speeds and other in speeds:
            pairs = [a / b for a, b in zip(speeds[one], speeds[other], strict=True)]
            spread = min(pairs), max(pairs)
            value = statistics.median(pairs)
            found.append(Figure(f"{one} / {other}: ratio", value, "x", target, spread=spread))
    return found


def _figure(name: str, key: str, values: list[float]) -> Figure:
    at_most = (name, key) in LIMITS
    target = (LIMITS if at_most else TARGETS).get((name, key))
    value, spread = statistics.median(values), (min(values), max(values))
    return Figure(f"{name}: {key}", value, UNITS[key], target, at_most=at_most, spread=spread)


def _utilisation(
    both: list[dict[str, Any]], flops: list[int] | None, work: dict[str, int], rate: float | None
) -> dict[str, list[float]]:
    """Return the model's need per second over the datasheet's peak, and over the measured rate."""
    from finetune_trainer.step_flops import peak_flops  # noqa: PLC0415 - after the arguments

    peak = peak_flops(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if flops is None or peak is None or rate is None:
        return {"mfu": [], "of_matrix_rate": []}
    need = sum(a * work[b] for a, b in zip(flops, ("tokens", "rows", "squares"), strict=True))
    speeds = [need / one["seconds"] for one in both]
    return {"mfu": [s / peak for s in speeds], "of_matrix_rate": [s / rate for s in speeds]}


def _work(case: dict[str, Any]) -> dict[str, int]:
    """Return tokens, supervised rows and squared lengths of the timed steps, on average."""
    cache = samples(case)
    share = case["timed"] / (case["warmup"] + case["timed"])
    sums = {
        "tokens": cache.lengths.sum(),
        "rows": cache.supervised.sum(),
        "squares": (cache.lengths**2).sum(),
    }
    return {name: round(float(value) * share) for name, value in sums.items()}


def _ceiling(rates: list[float]) -> list[Figure]:
    spread = (min(rates), max(rates)) if rates else None
    if spread is None:
        return []
    return [Figure("plain products", statistics.mean(rates), "FLOP/s", spread=spread)]


def _case(name: str, chosen: argparse.Namespace) -> dict[str, Any]:
    case = CASE | {"shape": "8b", "warmup": chosen.warmup, "timed": chosen.timed} | CASES[name]
    case |= {"generated": 8 if chosen.shape == "tiny" else 128}
    return case if chosen.shape is None else case | {"shape": chosen.shape}


def _draw_weights(folder: Path, shape: str) -> None:
    """Save a model from a process of its own, which gives the device's memory back."""
    subprocess.run([sys.executable, str(TASK), str(folder), shape], check=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", action="append", choices=list(CASES))
    parser.add_argument("--shape", choices=("8b", "3b", "tiny"), help="another shape for all")
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--timed", type=int, default=20)
    parser.add_argument("--scratch", help="a folder with room for the weights, 23 GB")
    return parser.parse_args()


if __name__ == "__main__":
    main()
