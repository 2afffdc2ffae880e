"""transformers.Trainer and TRL's SFTTrainer on the samples of a plan, in its order: the oracles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from finetune_trainer.plan import Plan
from finetune_trainer.token_cache import TokenCache
from training_ground import PLAN


class Noted(TrainerCallback):
    """Notes the loss and the gradient norm of every step."""

    def __init__(self) -> None:
        self.steps: list[tuple[float, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Take a log line in; the last one of a run has no loss."""
        if logs and "loss" in logs:
            self.steps.append((logs["loss"], float(logs["grad_norm"])))


def peer_model(folder: Path, like: nn.Module, *, attention: str) -> nn.Module:
    """Return the library's model with PEFT's adapter if `like` has one, and the same weights."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention)
    if hasattr(like, "peft_config"):
        rank, alpha = int(PLAN["rank"]), int(PLAN["alpha"])
        # By name: PEFT's "all-linear" takes the routers and experts of some families too.
        targets = like.peft_config["default"].target_modules
        config = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=alpha, target_modules=targets)
        model = get_peft_model(model, config)
    weights = {name: one.detach() for name, one in like.named_parameters()}
    with torch.no_grad():
        for name, one in model.named_parameters():
            one.copy_(weights.pop(name))
    assert not weights
    return model


def trained(
    trainer: type[Trainer], model: nn.Module, rows: list[dict[str, list[int]]], **settings: Any
) -> list[tuple[float, float]]:
    """Train a peer's model step by step; return loss and gradient norm of every step."""
    transformers.utils.logging.disable_progress_bar()
    noted = Noted()
    common = {
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "weight_decay": 0.0,
        "adam_beta2": 0.999,
        "max_grad_norm": 1.0,
        "gradient_checkpointing": False,
        "train_sampling_strategy": "sequential",
    }
    if trainer is Trainer:
        arguments = TrainingArguments(**common, remove_unused_columns=False, **settings)
        peer = Trainer(model, arguments, padded, rows, callbacks=[noted])
    else:
        peer = _supervised(trainer, model, rows, common | settings, noted)
    peer.train()
    return noted.steps


def rows_of(cache: TokenCache, plan: Plan) -> Iterator[dict[str, list[int]]]:
    """Yield the samples of all steps in the plan's order, unsupervised labels being -100."""
    for number in range(plan.total_steps):
        for i in plan.step(number).samples:
            part = slice(cache.offsets[i], cache.offsets[i + 1])
            tokens, flags = cache.tokens[part].tolist(), cache.flags[part].tolist()
            labels = [t if flag & 1 else -100 for t, flag in zip(tokens, flags, strict=True)]
            yield {"input_ids": tokens, "attention_mask": [1] * len(tokens), "labels": labels}


def padded(rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
    """Return a batch padded on the right to its longest row."""
    longest = max(len(one["input_ids"]) for one in rows)
    return {
        name: torch.tensor([one[name] + [fill] * (longest - len(one[name])) for one in rows])
        for name, fill in (("input_ids", 0), ("attention_mask", 0), ("labels", -100))
    }


def _supervised(
    trainer: type[Trainer],
    model: nn.Module,
    rows: list[dict[str, list[int]]],
    settings: dict[str, Any],
    noted: Noted,
) -> Trainer:
    from datasets import Dataset
    from trl import SFTConfig

    words = Tokenizer(WordLevel({"<pad>": 0, "<end>": 1}, unk_token="<pad>"))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<end>"
    )
    data = Dataset.from_list([{n: one[n] for n in ("input_ids", "labels")} for one in rows])
    return trainer(
        model=model,
        args=SFTConfig(max_length=128, **settings),
        train_dataset=data,
        processing_class=tokenizer,
        callbacks=[noted],
    )
