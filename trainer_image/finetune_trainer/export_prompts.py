"""What an exported model is asked, and how it is spoken to: as in training, by the same ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune_api.training_settings import Template
from finetune_trainer.chat_template import chosen_template
from finetune_trainer.encode import SUPERVISED, Encoder
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
    encoder = trained_encoder(config, sources)
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


def exported_prompting(config: ExportJobConfig, sources: ExportSources) -> Prompting:
    """Return the template that training used, if it is not the base's own, and the end tokens."""
    encoder = trained_encoder(config, sources)
    template, begins = encoder.template, encoder.tokenizer.special.begin_is_added
    own = template.name == Template.MODEL.value
    begin = "{{ bos_token }}" if begins else ""
    return Prompting(
        chat_template=None if own else template.source.replace("{{ begin_token }}", begin),
        end_tokens=end_tokens(encoder),
    )


def trained_encoder(config: ExportJobConfig, sources: ExportSources) -> Encoder:
    """Return the encoder of the training: the base's tokenizer and the recorded template."""
    tokenizer = text_tokenizer(sources.base)
    wanted = Template(config.plan.template)
    return Encoder(tokenizer, chosen_template(wanted, tokenizer.chat_template, tokenizer.special))


def end_tokens(encoder: Encoder) -> list[int]:
    """Return the token that ended every answer in training, then the tokenizer's end token."""
    exchange = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    sample = next(encoder.encoded(encoder.renderings(exchange)))
    special, backend = encoder.tokenizer.special, encoder.tokenizer.backend
    last = sample.ids[max(at for at, flag in enumerate(sample.flags) if flag & SUPERVISED)]
    known = {*special.all, special.end} - {""}
    found = [last] if sample.ends and backend.id_to_token(last) in known else []
    end = backend.token_to_id(special.end) if special.end else None
    return list(dict.fromkeys([*found, *([] if end is None else [end])]))
