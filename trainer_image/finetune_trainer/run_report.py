"""The report of a run: JSON for programs, one self-contained HTML page for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from finetune_api.run_config import TrainingConfig
from finetune_api.run_outcome import TrainingSummary
from finetune_trainer.base_model import model_place
from finetune_trainer.line_chart import Line, line_chart
from finetune_trainer.run_record import RunRecord

LABELS = {
    "perplexity_corpus": "perplexity",
    "perplexity_sample_mean": "mean perplexity of samples",
    "token_accuracy": "token accuracy",
}
STYLE = Path(__file__).with_name("run_report.css")


@dataclass(frozen=True)
class ReportFacts:
    """What a report is made of."""

    config: TrainingConfig
    record: RunRecord
    summary: TrainingSummary
    samples: Sequence[dict[str, str]]
    ranks: int
    split: str = "validation"
    """split whose metrics judge the run."""


def report_files(facts: ReportFacts) -> dict[str, bytes]:
    """Return the files of the report by name."""
    values = _values(facts)
    return {
        "report.json": json.dumps(values, allow_nan=False, ensure_ascii=False, indent=1).encode(),
        "report.html": _page(facts, values).encode(),
    }


def _values(facts: ReportFacts) -> dict[str, Any]:
    record = facts.record
    return {
        "version": 1,
        "experiment": facts.config.identity.name,
        "revision": facts.config.identity.revision,
        "attempt": facts.config.identity.attempt,
        "split": facts.split,
        "baseline": _metrics(record.evaluation(0) or {}) if record.step else {},
        "final": {
            one.name: one.value
            for one in facts.summary.metrics
            if one.split == facts.split and (one.step or not record.step)
        },
        "test": _metrics(record.test),
        "skippedUpdates": record.skipped + record.overflows,
        "rollbacks": record.rollbacks,
        "startDiffers": record.differing,
        "result": facts.summary.model_dump(by_alias=True, exclude={"metrics"}),
        "steps": record.step,
        "tokens": record.tokens,
        "supervisedTokens": record.supervised,
        "samplesSeen": record.samples,
        "history": record.history,
        "evaluations": record.evaluations,
        "samples": list(facts.samples),
        "plan": facts.config.plan.model_dump(by_alias=True),
    }


def _metrics(evaluation: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in evaluation.items() if name not in ("step", "rows")}


def _page(facts: ReportFacts, values: dict[str, Any]) -> str:
    config = facts.config
    what = "fine-tuning" if facts.record.step else "evaluation"
    title = f"{config.identity.name} — {what} report"
    under = (
        f"{config.identity.namespace} · revision {config.identity.revision} · attempt "
        f"{config.identity.attempt} · {escape(model_place(config.spec.model))} on "
        f"{escape(config.dataset.name)}"
    )
    parts = [
        _section("", _tiles(facts, values)),
        _section("Loss", _loss_chart(facts.record)),
        _section("Learning rate and gradient norm", _rate_charts(facts.record)),
        _section(f"Other metrics on the {facts.split} split", _metric_charts(facts.record)),
        _section("Sample answers", _samples(facts.samples)) if facts.samples else "",
        _section(f"Evaluations on the {facts.split} split", _evaluations(facts.record.evaluations)),
        _section("Test split", _evaluations([facts.record.test] if facts.record.test else [])),
        _section("Differs from the starting adapter", _differing(facts.record.differing)),
        _section("Settings", _settings(facts)),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE.read_text()}</style></head><body><main>"
        f'<h1>{escape(title)}</h1><p class="under">{under}</p>{"".join(parts)}'
        "</main></body></html>\n"
    )


def _section(title: str, content: str) -> str:
    heading = f"<h2>{escape(title)}</h2>" if title else ""
    return f"<section>{heading}{content}</section>" if content else ""


def _tiles(facts: ReportFacts, values: dict[str, Any]) -> str:
    record, before, after = facts.record, values["baseline"], values["final"]
    tiles = [
        _tile(
            _change(before.get(name), after[name], higher=name == "token_accuracy"),
            f"{facts.split} {LABELS.get(name, name)}",
        )
        for name in ("perplexity_corpus", "loss", "token_accuracy")
        if name in after
    ]
    tiles += [
        _tile(f"{record.step:,}", "steps"),
        _tile(f"{record.tokens:,}", "training tokens"),
        _tile(f"{record.supervised:,}", "of them supervised"),
        _tile(facts.summary.checkpoint_choice or "—", escape(facts.summary.reason or "result")),
    ]
    for count, label in (
        (record.skipped + record.overflows, "updates not finite, left out"),
        (record.rollbacks, "rollbacks to a checkpoint"),
    ):
        tiles += [_tile(f"{count:,}", label)] if count else []
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _tile(value: str, label: str) -> str:
    return f'<div class="tile"><b>{value}</b><span>{label}</span></div>'


def _change(before: float | None, after: float, *, higher: bool = False) -> str:
    if before is None:
        return _number(after)
    share = f" <small>({(after - before) / before:+.0%})</small>" if before else ""
    better = after > before if higher else after < before
    kind = ' class="better"' if better else ""
    return f"{_number(before)} → <span{kind}>{_number(after)}</span>{share}"


def _loss_chart(record: RunRecord) -> str:
    training = Line("training", [(one[0], one[1]) for one in record.history], "var(--first)")
    points = [(one["step"], one["loss"]) for one in record.evaluations]
    validation = Line("validation", points, "var(--second)", dots=True)
    return line_chart([training, validation], "nats per supervised token")


def _rate_charts(record: RunRecord) -> str:
    rate = Line("learning rate", [(one[0], one[2]) for one in record.history], "var(--first)")
    norm = Line("gradient norm", [(one[0], one[3]) for one in record.history], "var(--second)")
    return _side_by_side([rate, norm])


def _samples(samples: Sequence[dict[str, str]]) -> str:
    rows = [[one[name] for name in ("prompt", "reference", "base", "tuned")] for one in samples]
    return _table(
        ["prompt", "reference", "base model", "tuned model"], rows, kind="text", css="wide"
    )


def _metric_charts(record: RunRecord) -> str:
    names = [name for name in _metrics(next(iter(record.evaluations), {})) if name != "loss"]
    lines = [
        Line(
            LABELS.get(name, name),
            [(one["step"], one[name]) for one in record.evaluations if name in one],
            "var(--second)",
            dots=True,
        )
        for name in names
    ]
    return _side_by_side(lines)


def _side_by_side(lines: Sequence[Line]) -> str:
    charts = [line_chart([one], one.name, width=520, height=190) for one in lines]
    return f'<div class="tiles">{"".join(f"<div>{chart}</div>" for chart in charts if chart)}</div>'


def _evaluations(evaluations: Sequence[dict[str, float]]) -> str:
    names = list(_metrics(next(iter(evaluations), {})))
    rows = [
        [
            f"{int(one['step']):,}",
            *(_number(one[name]) if name in one else "—" for name in names),
            f"{int(one['rows']):,}",
        ]
        for one in evaluations
    ]
    heads = ["step", *(LABELS.get(name, name) for name in names), "supervised tokens"]
    return _table(heads, rows) if rows else ""


def _differing(tensors: Sequence[str]) -> str:
    return _table(["tensor"], [[one] for one in tensors]) if tensors else ""


def _settings(facts: ReportFacts) -> str:
    config = facts.config
    rows = [[name, _plain(value)] for name, value in config.plan.model_dump(by_alias=True).items()]
    rows += [
        ["adapter", config.spec.adapter.type.value],
        ["scheduler", config.spec.training.scheduler.value],
        ["ranks", str(facts.ranks)],
        ["base model commit", config.model.commit or "—"],
        ["dataset digest", config.dataset.digest],
        ["preparation digest", config.prepared_digest],
    ]
    return _table(["setting", "value"], [row for row in rows if row[1] != "None"])


def _table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "number", css: str = ""
) -> str:
    head = "".join(f"<th>{escape(one)}</th>" for one in heads)
    body = "".join(
        "<tr>" + "".join(f'<td class="{kind}">{escape(cell)}</td>' for cell in row) + "</tr>"
        for row in rows
    )
    return f'<table class="{css}"><tr>{head}</tr>{body}</table>'


def _number(value: float) -> str:
    return f"{value:,.4g}" if abs(value) < 1e5 else f"{value:.3g}"


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
