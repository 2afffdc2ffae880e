"""What accompanies the weights of an export: configuration, tokenizer, template, licence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

TOKENIZER_FILES = (
    "tokenizer*.json",
    "tokenizer.model",
    "*.tiktoken",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece*.model",
    "chat_template.jinja",
    "chat_template.json",
)
LICENCE_FILES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
CHAT_TEMPLATE = "chat_template.jinja"


def tokenizer_files(base: Path, chat_template: str | None) -> Iterator[tuple[str, bytes]]:
    """Yield the base's tokenizer files as they are; `chat_template` replaces the base's own."""
    for path in _matching(base, TOKENIZER_FILES):
        content = path.read_bytes()
        if chat_template is not None:
            if path.name.startswith("chat_template."):
                continue
            if path.name == "tokenizer_config.json":
                content = _without(content, "chat_template")
        yield path.name, content
    if chat_template is not None:
        yield CHAT_TEMPLATE, chat_template.encode()


def licence_files(base: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the licence texts that lie beside the base's weights."""
    for path in _matching(base, LICENCE_FILES):
        yield path.name, path.read_bytes()


def model_config(base: Path, dtype: str | None, rows: int = 0) -> bytes:
    """Return the base's config.json with type and rows of the weights, where they changed."""
    config = json.loads((base / "config.json").read_bytes())
    text = config.get("text_config", config)
    if rows > text.get("vocab_size", rows):
        text["vocab_size"] = rows
    config.pop("_name_or_path", None)
    if dtype is not None:
        config["dtype"] = dtype
        if "torch_dtype" in config:
            config["torch_dtype"] = dtype
    return _json(config)


def generation_config(base: Path, end_tokens: list[int]) -> bytes:
    """Return the base's generation settings with the end tokens that training taught."""
    path = base / "generation_config.json"
    settings = json.loads(path.read_bytes()) if path.exists() else {}
    if end_tokens:
        settings["eos_token_id"] = end_tokens[0] if len(end_tokens) == 1 else end_tokens
    return _json(settings)


def adapter_config(trained: bytes, base_name: str, commit: str | None) -> bytes:
    """Return the checkpoint's adapter_config.json with the base it belongs to, by commit."""
    config = json.loads(trained)
    return _json(config | {"base_model_name_or_path": base_name, "revision": commit})


def _matching(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in patterns)
    )


def _without(content: bytes, key: str) -> bytes:
    settings = json.loads(content)
    settings.pop(key, None)
    return _json(settings)


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"
