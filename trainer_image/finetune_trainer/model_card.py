"""The model card of an export: a README with a machine-readable header; values in, text out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from finetune_api.model_export import ExportFormat

if TYPE_CHECKING:
    from finetune_api.model_export import VerificationStatus
    from finetune_api.run_config import ExportJobConfig

SAMPLES = 3
CURVE_POINTS = 12
TRUNCATION = {
    "samples": "samples",
    "tokens": "tokens",
    "aboveLimit": "samples above the length limit",
    "answerCut": "answers cut",
    "lostTokens": "tokens lost",
    "lostShare": "share of tokens lost",
    "droppedTooLong": "samples dropped, too long",
    "droppedNothingSupervised": "samples dropped, nothing supervised",
    "answersWithoutEnd": "answers without an end token",
}
"""What the card takes from the account of the preparation, and how it says it."""
NOT_MEASURED = "not measured"
NOT_GIVEN = "not given"


@dataclass(frozen=True)
class CardFacts:
    """What the card tells beyond the job's configuration."""

    dtype: str
    verification: VerificationStatus
    tolerance: float
    files: Mapping[str, str]
    """files by name, with their SHA-256."""
    rendered_prompt: str = ""
    history: Sequence[Sequence[float]] = ()
    """history holds points that begin with step and loss."""
    samples: Sequence[Mapping[str, Any]] = ()
    truncation: Mapping[str, Any] = field(default_factory=dict)


def model_card(config: ExportJobConfig, facts: CardFacts) -> str:
    """Return the README: header, then one section per question a user of the model asks."""
    title = config.spec.card.title or config.identity.name
    sections = [
        f"# {title}",
        _lead(config),
        _section("Base model", _base(config)),
        _section("Training data", _data(config)),
        _section("How it was trained", _training(config)),
        _section("Results", _results(config)),
        _section("Training curve", _curve(facts)),
        _section("Truncation and supervision", _truncation(facts)),
        *([_section("Samples", _samples(facts))] if config.spec.card.samples else []),
        _section("Prompt format", _prompt_format(config, facts)),
        _section("How to load it", _loading(config)),
        _section("Export", _export(config, facts)),
        _section("Cost", f"GPU hours: {NOT_MEASURED}. Energy and carbon: {NOT_MEASURED}."),
        _section("Intended use and limits", config.spec.card.text or f"Intended use: {NOT_GIVEN}."),
        _section("Provenance", _provenance(config)),
    ]
    return _header(config) + "\n\n".join(sections) + "\n"


def _header(config: ExportJobConfig) -> str:
    """Return the YAML header; JSON values are YAML values."""
    adapter = config.spec.format is ExportFormat.ADAPTER
    card = config.spec.card
    values: dict[str, Any] = {
        "base_model": config.experiment_spec.model.name,
        "base_model_relation": "adapter" if adapter else "finetune",
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "license": card.license,
        "language": card.languages,
        "tags": [*(card.tags or ()), "finetune-operator"],
    }
    given = {key: value for key, value in values.items() if value}
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in given.items()]
    return "\n".join(["---", *lines, "---", "", ""])


def _lead(config: ExportJobConfig) -> str:
    kind = "LoRA adapter of" if config.spec.format is ExportFormat.ADAPTER else "fine-tuned from"
    return f"A {config.experiment_spec.problem_type.value} model, {kind} `{config.model.name}`."


def _base(config: ExportJobConfig) -> str:
    return _table(
        {
            "name": config.model.name,
            "commit": config.model.commit or "none: not from a hub",
            "architecture": config.model.architecture or NOT_GIVEN,
            "parameters": config.model.parameters or NOT_GIVEN,
            "licence of the base": "see the base model's own card",
            "licence of this model": config.spec.card.license or NOT_GIVEN,
        }
    )


def _data(config: ExportJobConfig) -> str:
    return _table(
        {
            "dataset": config.dataset.name,
            "digest": config.dataset.digest,
            "training samples": config.dataset.train,
            "validation samples": config.dataset.validation,
            "licence": config.dataset_license or NOT_GIVEN,
        }
    )


def _training(config: ExportJobConfig) -> str:
    plan = config.plan
    settings: dict[str, Any] = {
        "problem type": config.experiment_spec.problem_type.value,
        "method": config.experiment_spec.adapter.type.value
        if config.checkpoint_kind == "Adapter"
        else "full fine-tuning",
        "trainable parameters": config.model.trainable_parameters,
    }
    if config.checkpoint_kind == "Adapter":
        settings |= {"rank": plan.rank, "alpha": plan.alpha}
    settings |= {
        "updates": f"{config.checkpoint.step} of {plan.total_steps}",
        "epochs planned": plan.epochs,
        "global batch": f"{plan.global_batch_tokens} tokens"
        if plan.global_batch_tokens
        else f"{plan.global_batch_size} samples",
        "longest sample, tokens": plan.max_length,
        "peak learning rate": plan.learning_rate,
        "schedule": config.experiment_spec.training.scheduler.value,
        "warm-up, updates": plan.warmup_steps,
        "weight decay": config.experiment_spec.training.weight_decay,
        "gradient clipping": config.experiment_spec.training.max_grad_norm,
        "compute type": plan.compute_dtype,
        "strategy": plan.strategy,
        "ranks": plan.ranks,
        "seed": plan.seed,
    }
    return _table({key: value for key, value in settings.items() if value is not None})


def _results(config: ExportJobConfig) -> str:
    if not config.metrics:
        return "No metric was evaluated."
    rows = [
        (name, _number(config.baseline.get(name)), _number(value))
        for name, value in sorted(config.metrics.items())
    ]
    lines = ["| metric | before training | after training |", "|---|---|---|"]
    lines += [f"| {name} | {before} | {after} |" for name, before, after in rows]
    note = f"Measured on the validation split ({config.dataset.validation} samples)."
    return "\n".join([*lines, "", note])


def _curve(facts: CardFacts) -> str:
    if not facts.history:
        return "No training curve was recorded."
    every = max(1, len(facts.history) // CURVE_POINTS)
    lines = ["| step | loss |", "|---|---|"]
    for step, loss, *_ in facts.history[::every]:
        lines.append(f"| {int(step)} | {_number(loss)} |")
    return "\n".join(lines)


def _truncation(facts: CardFacts) -> str:
    told = {label: facts.truncation.get(name) for name, label in TRUNCATION.items()}
    found = {label: value for label, value in told.items() if value is not None}
    return _table(found) if found else "No sample was shortened or dropped by the length limit."


def _samples(facts: CardFacts) -> str:
    if not facts.samples:
        return "No sample answers were generated."
    texts = []
    for sample in facts.samples[:SAMPLES]:
        parts = {"prompt": "Prompt", "reference": "Reference", "base": "Base", "tuned": "Tuned"}
        texts.append(
            "\n\n".join(
                f"{label}:\n\n{_quoted(str(sample[key]))}"
                for key, label in parts.items()
                if sample.get(key)
            )
        )
    return "\n\n---\n\n".join(texts)


def _prompt_format(config: ExportJobConfig, facts: CardFacts) -> str:
    raw = "prompt, answer, end token, without a chat template"
    form = raw if config.plan.template == "Raw" else f"chat template `{config.plan.template}`"
    example = facts.rendered_prompt or "no validation prompt was kept"
    return (
        f"Training, evaluation and this card render alike: {form}. Example:\n\n{_quoted(example)}"
    )


def _loading(config: ExportJobConfig) -> str:
    if config.spec.format is ExportFormat.ADAPTER:
        return _code(
            "from peft import AutoPeftModelForCausalLM\n"
            "from transformers import AutoTokenizer\n\n"
            'model = AutoPeftModelForCausalLM.from_pretrained("path/to/this/folder")\n'
            'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")',
            "python",
        )
    return (
        _code(
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            'model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")\n'
            'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")',
            "python",
        )
        + "\n\nAs a server:\n\n"
        + _code("vllm serve path/to/this/folder", "shell")
    )


def _export(config: ExportJobConfig, facts: CardFacts) -> str:
    numbers = _table(
        {
            "format": config.spec.format.value,
            "type of the weights": facts.dtype,
            "sums": "Float32",
            "largest logit difference to the trained model": _number(
                facts.verification.max_logit_difference
            ),
            "mean logit difference": _number(facts.verification.mean_logit_difference),
            "tolerance": _number(facts.tolerance),
            "samples that stopped by themselves": f"{facts.verification.ended} of "
            f"{facts.verification.samples}",
        }
    )
    digests = _table({name: f"sha256:{digest}" for name, digest in sorted(facts.files.items())})
    return f"{numbers}\n\n{digests}"


def _provenance(config: ExportJobConfig) -> str:
    return _code(
        json.dumps(
            {
                "experiment": f"{config.identity.namespace}/{config.experiment}",
                "experimentUid": config.experiment_uid,
                "checkpoint": config.checkpoint.model_dump(by_alias=True),
                "dataset": config.dataset.digest,
                "plan": config.plan.digest,
                "prepared": config.prepared_digest,
            },
            indent=2,
        ),
        "json",
    )


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}"


def _table(values: Mapping[str, Any]) -> str:
    lines = ["| | |", "|---|---|"]
    return "\n".join([*lines, *(f"| {key} | {_cell(value)} |" for key, value in values.items())])


def _cell(value: Any) -> str:
    text = _number(value) if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def _quoted(text: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{text}\n{fence}"


def _code(text: str, language: str) -> str:
    return f"```{language}\n{text}\n```"
