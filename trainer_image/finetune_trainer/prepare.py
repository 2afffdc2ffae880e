"""The preparation of an experiment on CPU: pin, tokenise, report, resolve; repeatable, no GPU.

What fails here fails before anything expensive is asked for.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.experiment_plan import PlanStatus
from finetune_api.experiment_start import Start
from finetune_api.experiment_status import DatasetPin, ModelStatus, Truncation
from finetune_api.presets import preset_of
from finetune_api.run_outcome import PreparationSummary
from finetune_api.training_settings import Mode
from finetune_trainer.augmentation_choice import check_exchanges
from finetune_trainer.base_model import local_model_folder, model_place, resolved_commit
from finetune_trainer.encode import Encoder
from finetune_trainer.errors import AccessError
from finetune_trainer.evaluate_mode import main_split, of_mode
from finetune_trainer.inherited_tokens import inherited_tokens
from finetune_trainer.model_facts import ModelFacts, model_facts
from finetune_trainer.mounts import scratch_folder
from finetune_trainer.new_tokens import FILE as NEW_TOKENS
from finetune_trainer.new_tokens import new_tokens_file
from finetune_trainer.preparation_warnings import preparation_warnings
from finetune_trainer.prepared_files import FORMAT, write_accounts, write_cache
from finetune_trainer.prepared_splits import Prepared, prepared_splits, split_sources
from finetune_trainer.prompts import sample_prompts, stop_ids
from finetune_trainer.resolved_memory import padding_notice
from finetune_trainer.resolved_plan import PreparedFacts, resolved_plan
from finetune_trainer.run_encoder import run_encoder
from finetune_trainer.run_records import run_records
from finetune_trainer.run_tokenizer import RunTokenizer, run_tokenizer
from finetune_trainer.sample_choices import sample_choices
from finetune_trainer.sample_limits import Account
from finetune_trainer.shared_encodings import SharedEncodings
from finetune_trainer.snapshot import Snapshot
from finetune_trainer.split import SPLITS, TEST, TRAIN, VALIDATION
from finetune_trainer.start_weights import refuse_unfit_start
from finetune_trainer.store import (
    FileEntry,
    Store,
    canonical_json,
    free_folder,
    open_store,
    write_manifest,
)
from finetune_trainer.text_checks import check_text_settings

if TYPE_CHECKING:
    from finetune_api.finetune_experiment import ExperimentSpec
    from finetune_api.run_config import PreparationConfig
    from finetune_trainer.chat_template import ChatTemplate
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
    identity: str
    """identity names the weights: place, commit, and the checkpoints put onto them."""


def run(config: PreparationConfig, report: StageReporter) -> PreparationSummary:
    """Write the token cache of an experiment and return its resolved plan."""
    report.stage("Preparing")
    base = _base(config)
    with tempfile.TemporaryDirectory(dir=_scratch()) as scratch:
        folder = Path(scratch)
        snapshot = of_mode(config.spec, run_records(config, folder / "snapshot"))
        check_text_settings(config.spec, snapshot.record_type)
        tokenizer = run_tokenizer(config.spec, base.folder, folder, inherited_tokens(config.start))
        encoder = run_encoder(config.spec, tokenizer.tokenizer, snapshot)
        check_exchanges(config.spec, snapshot, encoder)
        shared = SharedEncodings.of(config, encoder)
        report.progress(0.2)
        prepared = prepared_splits(
            config.spec,
            split_sources(config.spec, snapshot, encoder),
            replace(base.facts, vocabulary=tokenizer.vocabulary(base.facts.vocabulary)),
            folder=folder,
            shared=shared,
            heard=lambda done: report.progress(0.2 + 0.6 * done),
        )
        for reason, message in preparation_warnings(encoder.template.name, prepared):
            report.warn(reason, message)
        report.progress(0.9)
        name = f"prepared-{config.identity.revision}-{config.identity.attempt}"
        store = free_folder(open_store(config.location, config.prefix), name)
        entries = _files(store, config.spec, snapshot, encoder, prepared, base.facts)
        entries += _tokenizer_files(store, tokenizer, encoder.template, base.facts)
        choices = sample_choices(config.spec, snapshot, prepared.samples[TRAIN], tokenizer)
        entries += choices.files(store)
        digest = _manifest(store, entries, snapshot, prepared)
        shared.keep()  # behind what the run itself needs, which has the first right to the room
    report.artifact("prepared", store.uri, digest, sum(entry.bytes for entry in entries))
    plan = _plan(config, base, encoder, replace(prepared, choices=choices), digest)
    if padding := padding_notice(config.spec, base.facts.shape, plan):
        report.warn("PaddedRows", padding)
    return _summary(config, base, prepared, plan)


def _manifest(
    store: Store, entries: list[FileEntry], snapshot: Snapshot, prepared: Prepared
) -> str:
    return write_manifest(
        store,
        FORMAT,
        entries,
        dataset=snapshot.digest,
        max_length=prepared.max_length,
        samples={split: len(prepared.samples[split]) for split in SPLITS},
    )


def _base(config: PreparationConfig) -> Base:
    start, hub = config.start or Start(base=config.spec.model), config.spec.hub
    model = start.base
    place, allowed = model_place(model), config.models_allowed
    if allowed and not any(fnmatch(place, pattern) for pattern in allowed):
        raise AccessError(
            f"spec.model: {place} is not among the models that the administrator allows; use one "
            f"of {', '.join(allowed)[:200]}",
            reason="ModelNotAllowed",
        )
    commit = resolved_commit(model, hub)
    folder = local_model_folder(model, hub, scratch_folder(), commit, weights=False)
    refuse_unfit_start(start, config.spec)
    if config.spec.model.intermediate_dropout is not None:
        # Only the library knows which dropouts an architecture has; it takes seconds to import.
        from finetune_trainer.model_config import model_config  # noqa: PLC0415

        model_config(folder, config.spec.model.intermediate_dropout)
    adapter, training = config.spec.adapter, config.spec.training
    if training.parameter_groups or training.freeze or adapter.target_modules:
        from finetune_trainer.name_checks import check_names  # noqa: PLC0415 - as above

        check_names(config.spec, folder, preset_of(config.spec).rank)
    facts = model_facts(folder)
    if config.spec.mode is Mode.TRAIN and facts.shape and facts.shape.balanced_experts:
        from finetune_trainer.router_balance import check_balance  # noqa: PLC0415 - as above

        check_balance(folder)
    put_on = "".join(f"+{one.digest}/{one.handover.value}" for one in start.ancestors)
    return Base(place, commit, folder, facts, f"{place}@{commit}{put_on}")


def _files(
    store: Store,
    spec: ExperimentSpec,
    snapshot: Snapshot,
    encoder: Encoder,
    prepared: Prepared,
    facts: ModelFacts,
) -> list[FileEntry]:
    entries = []
    for split in SPLITS:
        samples, rows = prepared.samples[split], snapshot.splits.get(split)
        if split == TEST and rows is None:
            continue
        grouped = rows if encoder.with_turns else None
        entries += write_cache(store, split, samples, prepared.accounts[split], grouped)
    entries.append(write_accounts(store, prepared.accounts, prepared.max_length, main_split(spec)))
    limit = (facts.context or prepared.max_length) - spec.generation.max_new_tokens
    prompts = sample_prompts(
        snapshot.splits.get(VALIDATION) or snapshot.splits[main_split(spec)],
        encoder,
        spec.prompt.system,
        spec.evaluation.generate_samples,
        max(SHORTEST_PROMPT, limit),
    )
    answers: dict[str, Any] = {"version": 1, "prompts": prompts, "stop": stop_ids(encoder)}
    entries.append(store.write("prompts.json", canonical_json(answers)))
    return entries


def _tokenizer_files(
    store: Store, tokenizer: RunTokenizer, template: ChatTemplate, facts: ModelFacts
) -> list[FileEntry]:
    """Write the tokenizer and the template as the run uses them, and what is new to the model."""
    told = {"name": template.name, "source": template.source, "stops": list(template.stops)}
    entries = [store.write("template.json", canonical_json(told))]
    for name, content in tokenizer.files():
        entries.append(store.write(f"tokenizer/{name}", content))
    merged = tokenizer.inherited.merged
    if tokenizer.new or merged:
        rows = tokenizer.vocabulary(facts.vocabulary)
        new = canonical_json(new_tokens_file(tokenizer.new, rows, merged))
        entries.append(store.write(NEW_TOKENS, new))
    return entries


def _plan(
    config: PreparationConfig, base: Base, encoder: Encoder, prepared: Prepared, digest: str
) -> PlanStatus:
    samples = prepared.samples[main_split(config.spec)]
    return resolved_plan(
        config.spec,
        PreparedFacts(
            lengths=samples.lengths.tolist(),
            supervised=samples.supervised.tolist(),
            max_length=prepared.max_length,
            template=encoder.template.name,
            prepared_digest=digest,
            model_identity=base.identity,
            seed=config.seed,
            shape=base.facts.shape,
            trained=base.facts.trainable(config.spec.adapter, preset_of(config.spec).rank),
            choices=prepared.choices,
        ),
    )


def _summary(
    config: PreparationConfig, base: Base, prepared: Prepared, plan: PlanStatus
) -> PreparationSummary:
    return PreparationSummary(
        dataset=DatasetPin(
            name=config.dataset.name,
            digest=config.dataset.digest,
            uri=config.dataset.uri,
            train=len(prepared.samples[TRAIN]),
            validation=len(prepared.samples[VALIDATION]),
            test=len(prepared.samples[TEST]),
        ),
        model=ModelStatus(
            name=base.place,
            commit=base.commit,
            architecture=base.facts.architecture,
            parameters=base.facts.parameters,
            trainable_parameters=base.facts.trainable(config.spec.adapter, plan.rank)
            if config.spec.mode is Mode.TRAIN
            else 0,
        ),
        plan=plan,
        truncation=_truncation(prepared.accounts[main_split(config.spec)]),
    )


def _truncation(account: Account) -> Truncation:
    dropped = sum(account.dropped.values())
    return Truncation(
        samples=account.above - account.dropped["TooLong"],
        answers=account.cuts["answer"],
        dropped=dropped,
        lost_tokens=account.lost_tokens,
        lost_share=round(account.lost_share, 6),
        fits_ninety_nine=account.length_of(0.99),
        fits_all=account.length_of(1),
    )


def _scratch() -> Path | None:
    folder = scratch_folder()
    return folder if folder.is_dir() else None
