"""A tiny random Llama in the Hugging Face layout, and hand-made token caches for it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM

from finetune_trainer.path_store import PathStore
from finetune_trainer.store import write_manifest
from finetune_trainer.token_cache import TokenCache

VOCABULARY = 61


def toy_llama_folder(folder: Path, *, layers: int = 2, tied: bool = False) -> Path:
    """Save a seeded Llama with grouped key-value heads; float32."""
    torch.manual_seed(11)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words = {"<pad>": 0, "<end>": 1} | {f"w{i}": i for i in range(2, VOCABULARY)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<pad>"))
    tokenizer.add_special_tokens(["<pad>", "<end>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<end>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def token_cache(count: int, *, seed: int = 3, longest: int = 24) -> TokenCache:
    """Return samples that count upwards, so that a model can learn them; prompts unsupervised."""
    drawn = random.Random(seed)
    samples, flags = [], []
    for _ in range(count):
        length, start = drawn.randint(3, longest), drawn.randrange(VOCABULARY - 2)
        samples.append([2 + (start + i) % (VOCABULARY - 2) for i in range(length)])
        prompt = drawn.randint(0, length - 2)
        flags.append([0] * prompt + [1] * (length - prompt))
    return TokenCache(
        tokens=np.concatenate([np.array(one) for one in samples]).astype(np.uint32),
        flags=np.concatenate([np.array(one) for one in flags]).astype(np.uint8),
        offsets=np.cumsum([0, *map(len, samples)]).astype(np.int64),
        rows=np.arange(count, dtype=np.uint32),
    )


def write_preparation(
    store: PathStore, *, train: int = 40, validation: int = 8, test: int = 0
) -> str:
    """Write what a preparation leaves behind and return the digest of its manifest."""
    entries = [store.write("truncation.json", b"{}")]
    for split, count, seed in (
        ("train", train, 3),
        ("validation", validation, 4),
        ("test", test, 5),
    ):
        if split == "test" and not count:
            continue
        cache = token_cache(count, seed=seed)
        entries += [
            store.write(f"tokens/{split}/{name}.bin", getattr(cache, name).tobytes())
            for name in ("tokens", "flags", "offsets", "rows")
        ]
        entries.append(store.write(f"tokens/{split}/index.json", b"{}"))
    prompts = [
        {"id": str(i), "tokens": [2 + i, 3 + i, 4 + i], "text": f"count {i}", "reference": "on"}
        for i in range(3)
    ]
    content = json.dumps({"prompts": prompts, "stop": [1]}).encode()
    entries.append(store.write("prompts.json", content))
    return write_manifest(store, "prepared/v1", entries)
