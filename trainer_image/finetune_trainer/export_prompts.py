"""What an exported model is asked, and how it is spoken to: as in training, by the same ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finetune_trainer.export_artifact import Prompting
from finetune_trainer.export_gate import Questions

if TYPE_CHECKING:
    from pathlib import Path

    from finetune_api.run_config import ExportJobConfig
    from finetune_trainer.export_sources import ExportSources

COMPARED = 10
LONGEST = 512
SAMPLES = 4
FIXED = (
    "The quick brown fox jumps over the lazy dog.",
    "Once upon a time there was",
    "def main(arguments):",
    "Question: how many days has a week? Answer:",
    "In 1969 the first people",
    "Dear customer, thank you for",
    "1, 2, 3, 4,",
    "The capital of France is",
    '{"name": "value",',
    "To be continued",
)
"""Asked beside the validation prompts where those are fewer than ten."""


def questions(config: ExportJobConfig, sources: ExportSources) -> Questions:
    """Return ten prompts whose logits are compared, and the prompts that are answered."""
    tokenizer = base_tokenizer(sources.base)
    validation = [list(map(int, prompt["tokens"])) for prompt in sources.prompts]
    fixed = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in FIXED]
    own = [
        rendered(tokenizer, text, config.plan.template)
        for text in config.spec.verification.prompts or ()
    ]
    compared = [ids[:LONGEST] for ids in [*validation, *fixed] if ids][:COMPARED]
    return Questions(prompts=compared, samples=own or (validation or fixed)[:SAMPLES])


def exported_prompting(config: ExportJobConfig, sources: ExportSources) -> Prompting:
    """Return the template that training used, if it is not the base's own, and the end tokens."""
    tokenizer = base_tokenizer(sources.base)
    return Prompting(chat_template=None, end_tokens=[tokenizer.eos_token_id])


def base_tokenizer(base: Path) -> Any:
    """Return the tokenizer of a local folder."""
    from transformers import AutoTokenizer  # noqa: PLC0415 - seconds to import

    return AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False)


def rendered(tokenizer: Any, text: str, template: str) -> list[int]:
    """Return an own prompt as the first turn of a user."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
