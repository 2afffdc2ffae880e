"""Write a tiny random Llama, its tokenizer and 400 sums as records into a folder."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def records() -> list[dict[str, str]]:
    """Return 400 questions about sums of digits and numbers, with their answers."""
    return [
        {"instruction": f"What is {WORDS[a % 10]} plus {b}?", "output": f"It is {a % 10 + b}."}
        for a in range(10)
        for b in range(40)
    ]


def write(folder: Path) -> None:
    """Write `train.jsonl` and `base-model/`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = records()
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((" ".join(row.values()) for row in rows), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    fast.save_pretrained(folder / "base-model")
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(fast),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            bos_token_id=None,
            eos_token_id=fast.eos_token_id,
            pad_token_id=None,
        )
    )
    model.save_pretrained(folder / "base-model")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
