"""A tiny base model, a checkpoint trained on it and the config that exports it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from finetune_api.run_config import ExportJobConfig
from finetune_api.text_settings import Prompt, Template
from finetune_trainer.chat_template import SpecialTokens
from finetune_trainer.stage_report import StageReporter
from finetune_trainer.store import FileEntry, Store, open_store, write_manifest
from finetune_trainer.template_choice import chosen_template

CLAIM = "results"
RAW = chosen_template(Prompt(template=Template.RAW), None, SpecialTokens())


class ExportGround:
    """Claims and scratch in one folder; `config` returns a valid job, changed as asked."""

    def __init__(self, folder: Path, *, tied: bool = False, method: str = "Adapter") -> None:
        self.folder, self.method = folder, method
        self.claims = folder / "claims"
        self.base = self.claims / "models" / "base"
        write_base(self.base, tied=tied)
        self.location = {"volumeClaim": {"claimName": CLAIM}}
        self._checkpoint = self._written("checkpoints/step-7", "checkpoint/v1", self._trained())
        self._prepared = self._written("prepared-1-1", "prepared/v1", _prepared())
        self._written("report-1.0", "report/v1", {"report.json": _report()}, manifest=False)

    def config(self, spec: dict[str, Any] | None = None, **changed: Any) -> ExportJobConfig:
        """Return a job that exports the checkpoint; `spec` is the ModelExport's."""
        uri, digest = self._checkpoint
        prepared_uri, prepared_digest = self._prepared
        value = {
            "identity": IDENTITY,
            "spec": {"source": {"experiment": {"name": "demo"}}} | (spec or {}),
            "location": self.location,
            "prefix": "modelexports/team/demo-x1",
            "experiment": "demo",
            "experiment_uid": "e1",
            "experiment_spec": {
                "model": {"volumeClaim": {"claimName": "models", "path": "base"}},
                "dataset": {"name": "answers"},
                "adapter": {"type": "LoRA" if self.method == "Adapter" else "None"},
            },
            "dataset": {"name": "answers", "digest": f"sha256:{'d' * 64}", "train": 8},
            "dataset_license": "CC0-1.0",
            "model": {"name": "pvc://models/base", "architecture": "LlamaForCausalLM"},
            "plan": PLAN,
            "metrics": {"loss": 1.25},
            "baseline": {"loss": 2.5},
            "checkpoint": {"step": 7, "uri": uri, "digest": digest},
            "checkpoint_kind": self.method,
            "checkpoint_location": self.location,
            "prepared_uri": prepared_uri,
            "prepared_digest": prepared_digest,
            "report_uri": f"pvc://{CLAIM}/report-1.0",
        }
        return ExportJobConfig.model_validate_json(json.dumps(value | changed))

    def reporter(self) -> StageReporter:
        """Return the reporter that a job is given."""
        return StageReporter(self.config().identity)

    def artifact(self, attempt: int = 1) -> Path:
        """Return the folder of an attempt's artifact."""
        return self.claims / CLAIM / "modelexports/team/demo-x1" / f"artifact-{attempt}"

    def _written(
        self, path: str, kind: str, files: dict[str, bytes], *, manifest: bool = True
    ) -> tuple[str, str]:
        store: Store = open_store(self.config_location()).child(path)
        entries: list[FileEntry] = [store.write(name, data) for name, data in files.items()]
        return store.uri, write_manifest(store, kind, entries) if manifest else ""

    def config_location(self) -> Any:
        """Return the results' location as the API type."""
        from finetune_api.storage import Location

        return Location.model_validate(self.location)

    def _trained(self) -> dict[str, bytes]:
        model = LlamaForCausalLM.from_pretrained(self.base, dtype=torch.float32)
        torch.manual_seed(5)
        config = {}
        if self.method == "Adapter":
            wrapped = get_peft_model(
                model, LoraConfig(r=4, lora_alpha=16, target_modules="all-linear")
            )
            tensors = {
                name.replace(".default.", "."): torch.randn_like(value) * 0.2
                for name, value in wrapped.named_parameters()
                if "lora_" in name
            }
            values = wrapped.peft_config["default"].to_dict() | {"base_model_name_or_path": "x"}
            plain = {k: sorted(v) if isinstance(v, set) else v for k, v in values.items()}
            config = {"adapter_config.json": json.dumps(plain, default=str).encode()}
        else:
            tensors = {
                name: value.detach() + torch.randn_like(value) * 0.05
                for name, value in model.named_parameters()
            }
        path = self.folder / "trained.safetensors"
        save_file(tensors, path)
        return {
            "trainable-00000-of-00001.safetensors": path.read_bytes(),
            "optimizer-00000-of-00001.safetensors": path.read_bytes(),
            "state.json": b"{}",
            **config,
        }


def write_base(folder: Path, *, tied: bool) -> None:
    """Write a two-layer Llama whose vocabulary is larger than its tokenizer's."""
    folder.mkdir(parents=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["what is one plus two"], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=fast.eos_token_id,
        pad_token_id=None,
        tie_word_embeddings=tied,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    (folder / "LICENSE").write_text("do what you like\n")


IDENTITY = {
    "kind": "ModelExport",
    "namespace": "team",
    "name": "demo",
    "uid": "x1",
    "revision": 1,
    "attempt": 1,
}
PLAN = {
    "template": "Raw",
    "computeDtype": "Float32",
    "strategy": "Single",
    "gpus": 0,
    "ranks": 1,
    "maxLength": 64,
    "perDeviceBatchSize": 2,
    "globalBatchSize": 4,
    "maxTokensPerDevice": 128,
    "stepsPerEpoch": 2,
    "totalSteps": 7,
    "warmupSteps": 1,
    "seed": 3,
    "epochs": 1.0,
    "learningRate": 1e-4,
    "rank": 4,
    "alpha": 16.0,
    "digest": f"sha256:{'a' * 64}",
}


def _prepared() -> dict[str, bytes]:
    prompts = [
        {"id": str(n), "tokens": [n + 5, n + 9, n + 20], "text": f"prompt {n}", "reference": "r"}
        for n in range(3)
    ]
    return {
        "prompts.json": json.dumps({"version": 1, "prompts": prompts, "stop": [0]}).encode(),
        "template.json": json.dumps({"name": "Raw", "source": RAW.source}).encode(),
        "truncation.json": json.dumps({"samples": 2, "lostTokens": 9}).encode(),
    }


def _report() -> bytes:
    sample = {"prompt": "one plus two", "reference": "three", "base": "no", "tuned": "three!"}
    history = [[step, 3.0 - step / 10, 1e-4, 1.0] for step in range(1, 8)]
    return json.dumps({"history": history, "samples": [sample]}).encode()
