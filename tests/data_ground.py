"""What tests of the data jobs stand on: claims in a folder, configs that are valid, a tokenizer."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from finetune_api import names
from finetune_api.dataset import DatasetSpec
from finetune_api.run_config import DatasetJobConfig, Identity, PreparationConfig
from finetune_api.storage import Location
from finetune_trainer.stage_report import StageReporter
from finetune_trainer.store import Store, open_store

RESULTS = {"volumeClaim": {"claimName": "results"}}
CHAT = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SPECIAL = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|begin|>"]


class Ground:
    """Claims and scratch of one pod, below a temporary folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.claims, self.secrets = folder / "claims", folder / "secrets"
        scratch = folder / "scratch"
        for path in (self.claims / "data", self.claims / "results", self.secrets, scratch):
            path.mkdir(parents=True)
        monkeypatch.setenv(names.CLAIMS_DIR_ENV, str(self.claims))
        monkeypatch.setenv(names.SECRETS_DIR_ENV, str(self.secrets))
        monkeypatch.setenv(names.SCRATCH_DIR_ENV, str(scratch))

    def put(self, name: str, content: str | bytes) -> str:
        """Write a file of the claim `data` and return its name."""
        path = self.claims / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return name

    def secret(self, name: str, **keys: str) -> None:
        """Mount a Secret."""
        (self.secrets / name).mkdir()
        for key, value in keys.items():
            (self.secrets / name / key).write_text(value)


def jsonl(rows: Iterable[Any]) -> str:
    """Return rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def questions(count: int, **more: Any) -> list[dict[str, Any]]:
    """Return distinct valid rows in the layout Columns."""
    return [{"prompt": f"question {n}?", "answer": f"answer {n}", **more} for n in range(count)]


def dataset_spec(*sources: Mapping[str, Any], **fields: Any) -> DatasetSpec:
    """Return a valid spec."""
    return DatasetSpec.model_validate_json(json.dumps({"sources": list(sources), **fields}))


def from_claim(path: str, **fields: Any) -> dict[str, Any]:
    """Return a source on the claim `data`."""
    return {"volumeClaim": {"claimName": "data", "path": path}, **fields}


def dataset_config(spec: DatasetSpec, attempt: int = 1, **fields: Any) -> DatasetJobConfig:
    """Return the config of a Dataset's job."""
    return DatasetJobConfig(
        identity=identity("Dataset", attempt),
        spec=spec,
        location=Location.model_validate(RESULTS),
        prefix="datasets/default/faq-1",
        **fields,
    )


def identity(kind: str, attempt: int = 1) -> Identity:
    """Return whose job it is."""
    return Identity(
        kind=kind, namespace="default", name="faq", uid="u", revision=1, attempt=attempt
    )


def reporter(config: DatasetJobConfig | PreparationConfig) -> StageReporter:
    """Return a reporter that keeps what is said."""
    return StageReporter(config.identity)


def results() -> Store:
    """Return the store of the claim `results`."""
    return open_store(Location.model_validate(RESULTS))


def trained_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Return a byte-level BPE tokenizer; equal texts give equal ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def model_folder(folder: Path, *, template: str | None = CHAT, context: int = 256) -> Path:
    """Write a model folder with a tokenizer and one tensor; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    trained_tokenizer(["question answer why because " * 20]).save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<|end|>", "bos_token": "<|begin|>"}
    settings |= {"chat_template": template} if template is not None else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "max_position_embeddings": context,
        "vocab_size": 400,
    }
    (folder / "config.json").write_text(json.dumps(config))
    _write_tensor(folder / "model.safetensors", "model.layers.0.mlp.up_proj.weight", (4, 8))
    return folder


def _write_tensor(path: Path, name: str, shape: tuple[int, int]) -> None:
    size = 4 * shape[0] * shape[1]
    entry = {"dtype": "F32", "shape": list(shape), "data_offsets": [0, size]}
    header = json.dumps({name: entry}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))
