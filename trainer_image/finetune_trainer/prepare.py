"""The preparation of an experiment on CPU: pin, tokenise, report, resolve; repeatable, no GPU.

What fails here fails before anything expensive is asked for.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.experiment_status import DatasetPin, ModelStatus, Truncation
from finetune_api.presets import preset_of
from finetune_api.run_outcome import PreparationSummary
from finetune_api.training_settings import TrainOnTurns
from finetune_trainer.base_model import local_model_folder, model_place, resolved_commit
from finetune_trainer.chat_template import chosen_template
from finetune_trainer.dataset_statistics import quantile
from finetune_trainer.encode import Encoder
from finetune_trainer.errors import AccessError, DataError
from finetune_trainer.model_facts import ModelFacts, model_facts
from finetune_trainer.mounts import scratch_folder
from finetune_trainer.preparation_warnings import preparation_warnings
from finetune_trainer.prepared_files import FORMAT, write_accounts, write_cache
from finetune_trainer.prepared_samples import Account
from finetune_trainer.prepared_splits import SPLITS, Prepared, prepared_splits
from finetune_trainer.prompts import sample_prompts, stop_ids
from finetune_trainer.resolved_plan import PreparedFacts, resolved_plan
from finetune_trainer.snapshot import Snapshot, read_snapshot
from finetune_trainer.split import TRAIN, VALIDATION
from finetune_trainer.store import (
    Store,
    canonical_json,
    free_folder,
    open_store,
    store_at,
    write_manifest,
)
from finetune_trainer.text_tokenizer import text_tokenizer

if TYPE_CHECKING:
    from finetune_api.finetune_experiment import ExperimentSpec
    from finetune_api.run_config import PreparationConfig
    from finetune_trainer.stage_report import StageReporter

SHORTEST_PROMPT = 16
"""Tokens a prompt keeps even where generation.maxNewTokens would fill the whole context."""


@dataclass(frozen=True)
class Base:
    """The base model of the run as far as preparation needs it."""

    place: str
    commit: str | None
    folder: Path
    facts: ModelFacts


def run(config: PreparationConfig, report: StageReporter) -> PreparationSummary:
    """Write the token cache of an experiment and return its resolved plan."""
    report.stage("Preparing")
    base = _base(config)
    with tempfile.TemporaryDirectory(dir=_scratch()) as folder:
        snapshot = _snapshot(config, Path(folder))
    encoder = _encoder(config.spec, base, snapshot)
    report.progress(0.2)
    prepared = prepared_splits(
        config.spec, snapshot, encoder, base.facts, lambda done: report.progress(0.2 + 0.6 * done)
    )
    for reason, message in preparation_warnings(snapshot, encoder, prepared):
        report.warn(reason, message)
    report.progress(0.9)
    home = open_store(config.location, config.prefix)
    identity = config.identity
    store = free_folder(home, f"prepared-{identity.revision}-{identity.attempt}")
    digest, size = _write(store, config.spec, snapshot, encoder, prepared, base.facts.context)
    report.artifact("prepared", store.uri, digest, size)
    return _summary(config, base, encoder, prepared, digest)


def _base(config: PreparationConfig) -> Base:
    model, hub = config.spec.model, config.spec.hub
    place, allowed = model_place(model), config.models_allowed
    if allowed and not any(fnmatch(place, pattern) for pattern in allowed):
        raise AccessError(
            f"spec.model: {place} is not among the models that the administrator allows; use one "
            f"of {', '.join(allowed)[:200]}",
            reason="ModelNotAllowed",
        )
    commit = resolved_commit(model, hub)
    folder = local_model_folder(model, hub, scratch_folder(), commit, weights=False)
    return Base(place, commit, folder, model_facts(folder))


def _snapshot(config: PreparationConfig, folder: Path) -> Snapshot:
    pinned, wanted = config.spec.dataset.digest, config.dataset
    if pinned is not None and pinned != wanted.digest:
        raise DataError(
            f"spec.dataset.digest: Dataset {wanted.name} has {wanted.digest}, pinned is {pinned}; "
            "restore the data or change the pin",
            reason="DigestMismatch",
        )
    return read_snapshot(store_at(wanted.location, wanted.uri), folder, wanted.digest)


def _encoder(spec: ExperimentSpec, base: Base, snapshot: Snapshot) -> Encoder:
    tokenizer = text_tokenizer(base.folder)
    template = chosen_template(spec.prompt.template, tokenizer.chat_template, tokenizer.special)
    roles = _roles(snapshot)
    if roles and spec.prompt.system:
        roles.add("system")
    template.check_roles(sorted(roles))
    only_last = spec.prompt.train_on_turns == TrainOnTurns.LAST
    return Encoder(tokenizer, template, only_last=only_last)


def _roles(snapshot: Snapshot) -> set[str]:
    """Return the roles that occur in the data; none in documents."""
    roles: set[str] = set()
    for rows in snapshot.splits.values():
        roles |= {turn["role"] for turns in rows.turns for turn in turns or ()}
        if any(rows.systems):
            roles.add("system")
    return roles


def _write(
    store: Store,
    spec: ExperimentSpec,
    snapshot: Snapshot,
    encoder: Encoder,
    prepared: Prepared,
    context: int | None,
) -> tuple[str, int]:
    entries = [
        entry
        for split in SPLITS
        for entry in write_cache(store, split, prepared.samples[split], prepared.accounts[split])
    ]
    entries.append(write_accounts(store, prepared.accounts, prepared.max_length))
    rows = snapshot.splits.get(VALIDATION) or snapshot.splits[TRAIN]
    limit = (context or prepared.max_length) - spec.generation.max_new_tokens
    prompts = sample_prompts(
        rows,
        encoder,
        spec.prompt.system,
        spec.evaluation.generate_samples,
        max(SHORTEST_PROMPT, limit),
    )
    answers: dict[str, Any] = {"version": 1, "prompts": prompts, "stop": stop_ids(encoder)}
    entries.append(store.write("prompts.json", canonical_json(answers)))
    template = {"name": encoder.template.name, "source": encoder.template.source}
    entries.append(store.write("template.json", canonical_json(template)))
    digest = write_manifest(
        store,
        FORMAT,
        entries,
        dataset=snapshot.digest,
        max_length=prepared.max_length,
        samples={split: len(prepared.samples[split]) for split in SPLITS},
    )
    return digest, sum(entry.bytes for entry in entries)


def _summary(
    config: PreparationConfig, base: Base, encoder: Encoder, prepared: Prepared, digest: str
) -> PreparationSummary:
    samples = prepared.samples[TRAIN]
    plan = resolved_plan(
        config.spec,
        PreparedFacts(
            lengths=[len(sample.ids) for _, sample in samples],
            supervised=[sample.supervised for _, sample in samples],
            max_length=prepared.max_length,
            template=encoder.template.name,
            prepared_digest=digest,
            model_identity=f"{base.place}@{base.commit}",
            seed=config.seed,
            shape=base.facts.shape,
            trained=base.facts.trainable(config.spec.adapter, preset_of(config.spec).rank),
        ),
    )
    return PreparationSummary(
        dataset=DatasetPin(
            name=config.dataset.name,
            digest=config.dataset.digest,
            uri=config.dataset.uri,
            train=len(samples),
            validation=len(prepared.samples[VALIDATION]),
        ),
        model=ModelStatus(
            name=base.place,
            commit=base.commit,
            architecture=base.facts.architecture,
            parameters=base.facts.parameters,
            trainable_parameters=base.facts.trainable(config.spec.adapter, plan.rank),
        ),
        plan=plan,
        truncation=_truncation(prepared.accounts[TRAIN]),
    )


def _truncation(account: Account) -> Truncation:
    dropped = sum(account.dropped.values())
    return Truncation(
        samples=account.above - account.dropped["TooLong"],
        answers=account.cuts["answer"],
        dropped=dropped,
        lost_tokens=account.lost_tokens,
        lost_share=round(account.lost_share, 6),
        fits_ninety_nine=quantile(account.lengths, 0.99),
        fits_all=account.lengths[-1] if account.lengths else 0,
    )


def _scratch() -> Path | None:
    folder = scratch_folder()
    return folder if folder.is_dir() else None
