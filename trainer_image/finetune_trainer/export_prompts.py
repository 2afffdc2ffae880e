"""What an exported model is asked, and how it is spoken to: as in training, by the same ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune_trainer.chat_template import ChatTemplate
from finetune_trainer.encode import Encoder
from finetune_trainer.export_artifact import Prompting
from finetune_trainer.export_gate import Questions
from finetune_trainer.text_tokenizer import text_tokenizer

if TYPE_CHECKING:
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
    encoder = trained_encoder(sources)
    validation = [list(map(int, prompt["tokens"])) for prompt in sources.prompts]
    fixed = [encoder.tokenizer.ids(text) for text in FIXED]
    system = config.experiment_spec.prompt.system
    before = [{"role": "system", "content": system}] if system else []
    own = [
        encoder.tokenizer.ids(encoder.context([*before, {"role": "user", "content": text}]))
        for text in config.spec.verification.prompts or ()
    ]
    compared = [ids[:LONGEST] for ids in [*validation, *fixed] if ids][:COMPARED]
    return Questions(prompts=compared, samples=own or (validation or fixed)[:SAMPLES])


def exported_prompting(sources: ExportSources) -> Prompting:
    """Return the template that training used, if it is not the base's own, and the end tokens."""
    encoder = trained_encoder(sources)
    template = encoder.template
    own = template.source == encoder.tokenizer.chat_template
    return Prompting(
        chat_template=None if own else template.source,
        end_tokens=list(sources.stop),
    )


def rendered_example(sources: ExportSources) -> str:
    """Return the first validation prompt as the model saw it; empty without one."""
    if not sources.prompts:
        return ""
    return text_tokenizer(sources.spoken).decode(sources.prompts[0]["tokens"])


def trained_encoder(sources: ExportSources) -> Encoder:
    """Return the encoder of the training: its tokenizer and the recorded template."""
    tokenizer = text_tokenizer(sources.spoken)
    name, source = sources.template["name"], sources.template["source"]
    return Encoder(tokenizer, ChatTemplate(name, source, tokenizer.special))
