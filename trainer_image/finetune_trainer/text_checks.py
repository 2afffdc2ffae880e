"""Refuses settings of text that cannot act with this problem type, data, tokenizer or model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from finetune_api.text_settings import EndTokenAfter, Overflow, Prompt, Template
from finetune_api.text_settings import Tokenizer as TokenizerSettings
from finetune_api.training_settings import ProblemType
from finetune_trainer.errors import ConfigurationError, DataError
from finetune_trainer.record import CONVERSATION, TEXT

if TYPE_CHECKING:
    from finetune_api.finetune_experiment import ExperimentSpec

RECORDS = {ProblemType.CAUSAL_LM: CONVERSATION, ProblemType.PRETRAINING: TEXT}
OF_CONVERSATIONS = ("system", "train_on_roles", "train_on_turns", "chain_samples")
OF_ANSWERS = ("max_prompt_length", "max_answer_length")


def check_text_settings(spec: ExperimentSpec, record_type: str) -> None:
    """Raise DataError (IncompatibleDataset) or ConfigurationError (DeadSetting), all together."""
    wanted = RECORDS[spec.problem_type]
    if record_type != wanted:
        raise DataError(
            f"spec.problemType: {spec.problem_type.value} learns from records of type {wanted}, "
            f"Dataset {spec.dataset.name} holds {record_type}; use another Dataset or problem type",
            reason="IncompatibleDataset",
        )
    found = list(_documents(spec) if wanted == TEXT else _conversations(spec))
    if spec.tokenizer.max_length is not None:
        found += [
            f"spec.tokenizer.{name}: maxLength is given; remove one of the two"
            for name in _changed(spec.tokenizer, ("max_length_quantile",))
        ]
    if found:
        raise ConfigurationError("; ".join(found), reason="DeadSetting")


def _documents(spec: ExperimentSpec) -> Iterator[str]:
    template = spec.prompt.template
    if template not in (Template.AUTO, Template.RAW):
        yield f"spec.prompt.template: {template.value}, but documents are read as they are; use Raw"
    for name in _changed(spec.prompt, OF_CONVERSATIONS):
        yield f"spec.prompt.{name}: documents have no turns; remove it"
    for name in _changed(spec.tokenizer, OF_ANSWERS):
        yield f"spec.tokenizer.{name}: documents have no answers; remove it"
    if spec.tokenizer.overflow in (Overflow.AUTO, Overflow.WINDOW):
        for name in _changed(spec.tokenizer, ("max_truncated_share",)):
            yield f"spec.tokenizer.{name}: windows cut nothing off; remove it"
    ends = set(spec.prompt.end_token_after or ()) - {EndTokenAfter.ANSWER}
    if ends:
        yield "spec.prompt.endTokenAfter: a document ends once; use Answer, or an empty list"


def _conversations(spec: ExperimentSpec) -> Iterator[str]:
    limits = spec.tokenizer
    for name, most in (
        ("maxPromptLength", limits.max_prompt_length),
        ("maxAnswerLength", limits.max_answer_length),
    ):
        if limits.max_length is not None and (most or 0) >= limits.max_length:
            yield (
                f"spec.tokenizer.{name}: {most} is not below maxLength {limits.max_length} and so "
                "without effect; lower it or remove it"
            )


def _changed(block: Prompt | TokenizerSettings, names: Iterable[str]) -> Iterator[str]:
    """Yield the JSON names of fields that differ from their defaults."""
    for name in names:
        declared: Any = type(block).model_fields[name]
        if getattr(block, name) != declared.get_default(call_default_factory=True):
            yield str(declared.alias)
