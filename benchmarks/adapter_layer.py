"""One decoder layer, forward and backward: PEFT's adapters, the fused product, and lean layers.

    OMP_NUM_THREADS=1 python benchmarks/adapter_layer.py

The layer has the proportions of Llama-3-8B (feed-forward 3.5 x hidden, one key-value head in four)
and rank 16 on all linear layers, float32 masters under bfloat16 autocast. Contenders take turns;
ratios of core seconds are taken within a turn. Units are elements saved for backward, per token
and hidden size.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / name) for name in ("operator", "trainer_image", "tests", "benchmarks")]

from bench_report import Figure, median, ratio, report  # noqa: E402

from finetune_trainer.counter_dropout import DRAWS  # noqa: E402
from finetune_trainer.fused_lora import fuse  # noqa: E402
from finetune_trainer.lean_layers import lean  # noqa: E402
from finetune_trainer.segments import SEGMENT_LOOP, Layout  # noqa: E402
from step_counters import operations  # noqa: E402

HIDDEN, TOKENS, RANK = 512, 512, 16


def layer(dropout: float, *, fused: bool, leaner: bool) -> Callable[[], Tensor]:
    """Return a function that runs the second layer of a model once, forward and backward."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=32, hidden_size=HIDDEN, intermediate_size=HIDDEN * 7 // 2, num_hidden_layers=1,
        num_attention_heads=8, num_key_value_heads=2, attn_implementation=SEGMENT_LOOP,
    )  # fmt: skip
    base = LlamaForCausalLM(config).to(torch.bfloat16)
    if leaner:
        lean(base)
    settings = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, lora_dropout=dropout, target_modules="all-linear"
    )
    model: Any = get_peft_model(base, settings)
    if fused:
        fuse(model)
    inner = model.base_model.model.model
    block = inner.layers[0]
    x = torch.randn(1, TOKENS, HIDDEN, dtype=torch.bfloat16, requires_grad=True)
    places = inner.rotary_emb(x, torch.arange(TOKENS)[None])
    layout = Layout((0, TOKENS), torch.tensor([0, TOKENS], dtype=torch.int32), TOKENS)

    def run() -> Tensor:
        DRAWS.set(1, 1, 0)
        with torch.autocast("cpu", torch.bfloat16):
            y: Tensor = block(x, position_embeddings=places, layout=layout)
        y.sum().backward()
        return y.detach()

    run.block = block  # type: ignore[attr-defined]
    return run


def saved_units(run: Callable[[], Tensor]) -> float:
    """Return what a layer keeps for backward, parameters and shared tensors of the row left out."""
    known = {one.untyped_storage().data_ptr() for one in run.block.parameters()}  # type: ignore[attr-defined]
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda one: one):
        run()
    return sum(kept.values()) / 2 / TOKENS / HIDDEN


def main() -> None:
    """Run the contenders in turn and print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--pairs", type=int, default=7)
    pairs = options.parse_args().pairs
    torch.set_num_threads(1)
    figures = []
    for dropout in (0.0, 0.1):
        shapes = {"PEFT": (False, False), "fused": (True, False), "fused, lean": (True, True)}
        runs = {n: layer(dropout, fused=f, leaner=le) for n, (f, le) in shapes.items()}
        times: dict[str, list[float]] = {name: [] for name in runs}
        answers = {name: run() for name, run in runs.items()}
        for name in ("fused", "fused, lean"):
            torch.testing.assert_close(answers[name], answers["PEFT"], rtol=0.1, atol=0.1)
        for _ in range(pairs):
            for name, run in runs.items():
                began = time.process_time()
                run()
                times[name].append(time.process_time() - began)
        at = f"dropout {dropout}: "
        pair = times["PEFT"], times["fused, lean"]
        figures.append(ratio(f"{at}PEFT / fused, lean", *pair, 1.7 if dropout else None))
        figures.append(ratio(f"{at}PEFT / fused", times["PEFT"], times["fused"]))
        for name, run in runs.items():
            lean_one = "lean" in name
            figures.append(median(f"{at}core seconds, {name}", times[name], "s"))
            with operations() as seen:
                run()
            ops, limit = float(seen.total()), 300 if lean_one and not dropout else None
            figures.append(Figure(f"{at}operations, {name}", ops, "ops", limit, at_most=True))
            kept, most = saved_units(run), 18.9 if lean_one else None
            figures.append(Figure(f"{at}saved, {name}", kept, "units", most, at_most=True))
    report(figures, ["torch", "transformers", "peft"])


if __name__ == "__main__":
    main()
