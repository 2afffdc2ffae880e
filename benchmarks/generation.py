"""Generated tokens per second: ours against batches of two in the given order, adapters unmerged.

The other way is what a studio's validation does: `generate` of transformers on PEFT's model, two
prompts at a time, each pair until both have ended. Ours sorts by length, batches by memory,
compacts and runs the fused adapter forward. Both answer the same prompts greedily; their answers
must be equal. Turns alternate in two processes; the figure is the median of the pairs' ratios.

    python benchmarks/generation.py [--prompts 32] [--new-tokens 128] [--pairs 5]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from bench_report import Figure, median, ratio, report
from contender_turns import Turns, compete
from train_task import ALPHA, RANK, SEED, Job, model_folder, peer_model, samples, seed_adapters

from finetune_api.model_settings import Adapter
from finetune_trainer.adapter import Trained, trainable_model
from finetune_trainer.decoding import Decoding, Prompt
from finetune_trainer.generate import generate
from finetune_trainer.model import load_base

TARGET, LEAST_EQUAL = 4.0, 0.95
LONGEST_PROMPT = 256
ENDS = frozenset(range(1, 330))
"""Ids that end an answer: about one in twenty-five, so that rows end at different lengths."""


def prompts(count: int) -> list[Prompt]:
    """Return prompts of chat-like lengths, in no order."""
    cache = samples(count)
    return [
        Prompt(str(i), tuple(cache.sample(i)[0][:LONGEST_PROMPT].tolist())) for i in range(count)
    ]


def trained(model: Any) -> Any:
    """Give the adapters weights that change answers, the same by name for both."""
    seed_adapters(model)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            generator = torch.Generator().manual_seed(len(name))
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return model.eval()


def ours(folder: Path, asked: list[Prompt], new_tokens: int) -> Any:
    """Return a function that answers all prompts our way."""
    choice = Trained(Adapter(), rank=RANK, alpha=float(ALPHA), seed=SEED)
    model = trained(trainable_model(load_base(folder, torch.float32), choice))
    decoding = Decoding(max_new_tokens=new_tokens, stop=ENDS)

    def answers() -> dict[str, list[int]]:
        return {name: list(one.tokens) for name, one in generate(model, asked, decoding).items()}

    return answers


def pairs_unmerged(folder: Path, asked: list[Prompt], new_tokens: int) -> Any:
    """Return a function that answers two prompts at a time through the library and PEFT."""
    job = Job(full=False, batch=2, steps=1, epochs=1)
    model = trained(peer_model(folder, job))
    model.config.use_cache = True
    settings = {"max_new_tokens": new_tokens, "do_sample": False, "use_cache": True}
    settings |= {"eos_token_id": sorted(ENDS), "pad_token_id": 0}

    def answers() -> dict[str, list[int]]:
        found = {}
        for at in range(0, len(asked), 2):
            rows = asked[at : at + 2]
            longest = max(len(one.tokens) for one in rows)
            padded = [[0] * (longest - len(one.tokens)) + list(one.tokens) for one in rows]
            ids = torch.tensor(padded)
            mask = torch.tensor(
                [[int(i >= longest - len(one.tokens)) for i in range(longest)] for one in rows]
            )
            with torch.no_grad():
                output = model.generate(input_ids=ids, attention_mask=mask, **settings)
            for prompt, row in zip(rows, output[:, longest:].tolist(), strict=True):
                end = next((i for i, one in enumerate(row) if one in ENDS), len(row))
                found[prompt.id] = row[:end]
        return found

    return answers


WAYS = {"ours": ours, "batch of 2 unmerged": pairs_unmerged}


def contender(name: str, arguments: dict[str, Any]) -> None:
    """Answer all prompts once per turn; tell the answers at the end."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    asked = prompts(arguments["prompts"])
    answers = WAYS[name](Path(arguments["folder"]), asked, arguments["new_tokens"])
    turns, found = Turns(1), {}
    turns.begin()
    for number in range(arguments["turns"]):
        found = answers()
        turns.step_done(number + 1)
    turns.end(answers=found)


def main() -> None:
    """Let both take turns and print the figures; end with 1 if their answers are not equal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = model_folder(Path(name))
        arguments = {"folder": str(folder), "prompts": given.prompts}
        arguments |= {"new_tokens": given.new_tokens, "turns": given.pairs + 1}
        both = compete(Path(__file__), list(WAYS), [arguments, arguments], given.pairs)
    told = [one.ending["answers"] for one in both]
    tokens = [sum(map(len, answers.values())) for answers in told]
    rates = [
        [count / seconds for seconds in one.seconds]
        for count, one in zip(tokens, both, strict=True)
    ]
    # Computed, not waited: what others do on the machine counts less.
    core = [
        [count / seconds for seconds in one.core_seconds]
        for count, one in zip(tokens, both, strict=True)
    ]
    equal = sum(told[0][key] == told[1][key] for key in told[1]) / len(told[1])
    report(
        [
            ratio("generation, ours / batch of 2 unmerged", *rates, TARGET),
            ratio("generation, ratio of core seconds", *core, TARGET),
            median("generation, ours", rates[0], "tokens/s"),
            median("generation, batch of 2 unmerged", rates[1], "tokens/s"),
            Figure("equal answers", equal, "share", LEAST_EQUAL),
            Figure("answer length", tokens[1] / given.prompts, "tokens"),
        ],
        ["torch", "transformers", "peft"],
    )
    sys.exit(0 if equal >= LEAST_EQUAL else 1)


if __name__ == "__main__":
    if len(sys.argv) > 2 and sys.argv[1] in WAYS:
        contender(sys.argv[1], json.loads(sys.argv[2]))
    else:
        main()
