"""What an export is made of, on local disk and proven: checkpoint, base, prompts, report."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.experiment_start import Start
from finetune_trainer.errors import AccessError
from finetune_trainer.mounts import scratch_folder
from finetune_trainer.start_weights import starting_model
from finetune_trainer.store import (
    MANIFEST,
    download_verified,
    store_at,
)
from finetune_trainer.stored import pinned

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from finetune_api.run_config import ExportJobConfig

OPTIMIZER = "optimizer-"
PROMPTS, TRUNCATION, TEMPLATE = "prompts.json", "truncation.json", "template.json"
TOKENIZER = "tokenizer"


@dataclass(frozen=True)
class ExportSources:
    """Local folders of checkpoint and base, and what preparation and report tell."""

    checkpoint: Path
    base: Path
    prompts: Sequence[Mapping[str, Any]] = ()
    stop: Sequence[int] = ()
    """stop are the token ids that end an answer."""
    template: Mapping[str, str] = field(default_factory=dict)
    """template is the chat template of the training: its name and source."""
    truncation: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Path | None = None
    """tokenizer is the folder of the one that training used, new tokens included."""

    @property
    def spoken(self) -> Path:
        """Return the folder of the tokenizer that the trained model speaks."""
        return self.tokenizer or self.base


def export_sources(config: ExportJobConfig) -> ExportSources:
    """Fetch everything that the export reads; the checkpoint and prompts by digest."""
    scratch = scratch_folder() / "export"
    experiment = config.experiment_spec
    prepared = _prepared(config, scratch / "prepared")
    asked = _json(prepared / PROMPTS)
    return ExportSources(
        checkpoint=_checkpoint(config, scratch / "checkpoint"),
        base=starting_model(
            config.start or Start(base=experiment.model),
            experiment,
            config.model.commit,
            scratch / "base",
        ).model,
        prompts=asked.get("prompts", ()),
        stop=asked.get("stop", ()),
        template=_json(prepared / TEMPLATE),
        truncation=_json(prepared / TRUNCATION),
        report=_report(config),
        tokenizer=prepared / TOKENIZER if (prepared / TOKENIZER).is_dir() else None,
    )


def _checkpoint(config: ExportJobConfig, folder: Path) -> Path:
    store = store_at(config.checkpoint_location, config.checkpoint.uri)
    if not store.exists(MANIFEST):
        raise AccessError(
            f"{store.uri}: the checkpoint is gone; choose another in source.experiment.checkpoint",
            reason="CheckpointNotFound",
        )
    manifest = pinned(store, config.checkpoint.digest)
    wanted = [file.name for file in manifest.files if not file.name.startswith(OPTIMIZER)]
    download_verified(store, manifest, folder, wanted)
    return folder


def _prepared(config: ExportJobConfig, folder: Path) -> Path:
    store = store_at(config.checkpoint_location, config.prepared_uri)
    manifest = pinned(store, config.prepared_digest)
    wanted = (PROMPTS, TRUNCATION, TEMPLATE)
    names = [
        file.name
        for file in manifest.files
        if file.name in wanted or file.name.startswith(f"{TOKENIZER}/")
    ]
    download_verified(store, manifest, folder, names)
    return folder


def _json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    content: dict[str, Any] = json.loads(path.read_bytes())
    return content


def _report(config: ExportJobConfig) -> dict[str, Any]:
    """Return the run's report for the card; a card without curve and samples is still a card."""
    if not config.report_uri:
        return {}
    store = store_at(config.checkpoint_location, config.report_uri.removesuffix("/report.html"))
    try:
        report: dict[str, Any] = json.loads(store.read("report.json"))
    except (FileNotFoundError, ValueError):
        return {}
    return report
