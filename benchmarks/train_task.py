"""The job every contender of `train_speed.py` does: a small Llama and samples it can learn."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from finetune_trainer.plan import Plan, PlanSettings
from finetune_trainer.token_cache import TokenCache

VOCABULARY, SPOKEN, STRIDES = 8192, 400, 7
SHORTEST, LONGEST = 16, 512
SEED, RATE = 1, 1e-3
RANK, ALPHA = 16, 32


@dataclass(frozen=True)
class Job:
    """How long and in which way a contender trains."""

    full: bool
    batch: int
    steps: int
    """steps of an epoch; an epoch is one turn of a contender."""
    epochs: int
    autocast: bool = False
    """autocast is bfloat16 arithmetic; else everything is float32."""
    dropout: float = 0.0

    @property
    def samples(self) -> int:
        """Samples of an epoch."""
        return self.batch * self.steps

    def plan(self, cache: TokenCache) -> Plan:
        """Return the trainer's own plan, whose order peers that can follow, follow."""
        settings = PlanSettings(
            seed=SEED, samples=self.batch, epochs=self.epochs, budget=self.batch * LONGEST
        )
        return Plan(cache.lengths.tolist(), cache.supervised.tolist(), settings)


def model_folder(folder: Path) -> Path:
    """Save a Llama of 4 layers and 256 hidden units with weights from a seed; float32."""
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=LONGEST,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def samples(count: int) -> TokenCache:
    """Return sequences that count in one of seven strides; 16-512 tokens, about 193 on average.

    The first quarter to half of each is a prompt without supervision. Lengths fall off as in chat
    data: the mean of three draws out of four lies below 200.
    """
    drawn = random.Random(SEED)
    tokens, flags = [], []
    for _ in range(count):
        length = min(LONGEST, max(SHORTEST, round(drawn.lognormvariate(4.95, 0.85))))
        start, stride = drawn.randrange(SPOKEN), drawn.randint(1, STRIDES)
        tokens.append(2 + (start + stride * np.arange(length)) % SPOKEN)
        prompt = round(length * drawn.uniform(0.25, 0.5))
        flags.append(np.arange(length) >= prompt)
    return TokenCache(
        tokens=np.concatenate(tokens).astype(np.uint32),
        flags=np.concatenate(flags).astype(np.uint8),
        offsets=np.cumsum([0, *map(len, tokens)]).astype(np.int64),
        rows=np.arange(count, dtype=np.uint32),
    )


def in_order(job: Job, cache: TokenCache) -> list[dict[str, list[int]]]:
    """Return the samples of all epochs in the order of the plan, as lists for other trainers."""
    plan = job.plan(cache)
    steps = (plan.step(number) for number in range(plan.total_steps))
    return [_listed(cache, i) for step in steps for i in step.samples]


def padded(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Return a batch padded to its longest row; padding counts nowhere."""
    longest = max(len(one["input_ids"]) for one in rows)
    fills = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    return {
        name: torch.tensor([one[name] + [fill] * (longest - len(one[name])) for one in rows])
        for name, fill in fills.items()
    }


def seed_adapters(model: nn.Module) -> None:
    """Give every contender the same first adapter weights, by parameter name."""
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            drawn = torch.empty(parameter.shape).uniform_(-0.06, 0.06, generator=generator)
            parameter.data.copy_(drawn)


def peer_model(folder: Path, job: Job, dtype: torch.dtype = torch.float32) -> Any:
    """Return the model as other trainers get it: the library's attention, PEFT's own adapter."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    model.config.use_cache = False
    if job.full:
        return model
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415 - slow to import

    adapted = get_peft_model(
        model,
        LoraConfig(
            task_type="CAUSAL_LM",
            r=RANK,
            lora_alpha=ALPHA,
            lora_dropout=job.dropout,
            target_modules="all-linear",
        ),
    )
    seed_adapters(adapted)
    return adapted


def _listed(cache: TokenCache, sample: int) -> dict[str, list[int]]:
    part = slice(cache.offsets[sample], cache.offsets[sample + 1])
    tokens, flags = cache.tokens[part].tolist(), cache.flags[part].tolist()
    labels = [token if flag else -100 for token, flag in zip(tokens, flags, strict=True)]
    return {"input_ids": tokens, "attention_mask": [1] * len(tokens), "labels": labels}
