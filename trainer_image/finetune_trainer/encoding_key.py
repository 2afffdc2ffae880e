"""The key of encoded records: equal keys promise equal samples.

It covers the records as they are fed to the encoder, everything that the encoder is made of, and
the code and libraries that turn the one into the other: no version number can be forgotten, and an
image with other code does not read what this one wrote.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import tokenizers

from finetune_trainer.prepared_samples import CHUNK, SplitSource, batch_of
from finetune_trainer.token_spool import FACTS

if TYPE_CHECKING:
    from finetune_trainer.encode import Encoder

CODE = (
    *("chat_template", "encode", "prepared_samples", "rendering", "supervision"),
    *("template_sandbox", "text_tokenizer", "token_places", "token_spool"),
)
"""Modules that decide what a record becomes."""


def encoder_facts(encoder: Encoder) -> dict[str, Any]:
    """Return what the samples of equal records depend on, as JSON."""
    tokenizer = encoder.tokenizer
    return {
        "tokenizer": _sha256(tokenizer.backend.to_str().encode()),
        "special": asdict(tokenizer.special),
        "template": asdict(encoder.template),
        "supervision": asdict(encoder.supervision),
        "turns": encoder.with_turns,
        "layout": FACTS.descr,
        "code": {
            name: _sha256(Path(__file__).with_name(f"{name}.py").read_bytes()) for name in CODE
        },
        "libraries": {"jinja2": jinja2.__version__, "tokenizers": tokenizers.__version__},
    }


def encoding_key(source: SplitSource, facts: dict[str, Any]) -> str:
    """Return the key of a split; `facts` are those of its encoder."""
    encode = json.JSONEncoder(sort_keys=True, default=sorted).encode
    key = hashlib.sha256(encode([facts, source.system, source.documents]).encode())
    for start in range(0, len(source.rows), CHUNK):
        batch = batch_of(source.rows, start, start + CHUNK)
        for record in zip(batch.systems, batch.turns, batch.texts, strict=True):
            key.update(b"\n" + encode(record).encode())
    return key.hexdigest()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
