"""The splits of a run as samples that fit one length limit, or the reason why they cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from finetune_api.finetune_experiment import ExperimentSpec
from finetune_api.text_settings import Overflow
from finetune_api.training_settings import ProblemType
from finetune_trainer.encode import Encoder
from finetune_trainer.errors import ConfigurationError, DataError
from finetune_trainer.evaluate_mode import main_split
from finetune_trainer.model_facts import ModelFacts
from finetune_trainer.prepared_samples import SplitSource, automatic_limit, spooled_samples
from finetune_trainer.record import TEXT
from finetune_trainer.sample_choices import SampleChoices
from finetune_trainer.sample_limits import Account, SampleLimits
from finetune_trainer.shared_encodings import SharedEncodings
from finetune_trainer.snapshot import Rows, Snapshot
from finetune_trainer.split import SPLITS
from finetune_trainer.token_spool import SpooledSamples, TokenSpool
from finetune_trainer.truncation import Limits


@dataclass(frozen=True)
class Prepared:
    """Samples of every split, on the scratch disk, and the account of what was cut."""

    samples: dict[str, SpooledSamples]
    accounts: dict[str, Account]
    max_length: int
    choices: SampleChoices = field(default_factory=SampleChoices)


def split_sources(spec: ExperimentSpec, snapshot: Snapshot, encoder: Encoder) -> list[SplitSource]:
    """Return the records of every split, and how they become samples."""
    return [
        SplitSource(
            split,
            snapshot.splits.get(split, Rows([], [], [], [])),
            encoder,
            spec.prompt.system,
            snapshot.record_type == TEXT,
        )
        for split in SPLITS
    ]


def prepared_splits(
    spec: ExperimentSpec,
    sources: Sequence[SplitSource],
    facts: ModelFacts,
    *,
    folder: Path,
    shared: SharedEncodings,
    heard: Callable[[float], None],
) -> Prepared:
    """Encode all splits, resolve the length limit and make every sample fit it.

    `facts` count the rows of the grown model; `folder` on the scratch disk takes what is encoded;
    `shared` may hold it already; `heard` hears the share 0…1 of the records.
    """
    spools = _encoded(sources, folder, shared, heard)
    _check_vocabulary(spools, facts.vocabulary)
    main = main_split(spec)
    limits = _limits(spec, np.sort(spools[main].table()["length"]).tolist(), facts)
    found = {
        one.split: limits.fitting(one, spools[one.split], folder / one.split) for one in sources
    }
    prepared = Prepared(
        {split: samples for split, (samples, _) in found.items()},
        {split: account for split, (_, account) in found.items()},
        limits.limits.whole,
    )
    _check(spec, prepared)
    return prepared


def _limits(spec: ExperimentSpec, lengths: list[int], facts: ModelFacts) -> SampleLimits:
    tokenizer = spec.tokenizer
    whole = _limit(spec, lengths, facts)
    limits = Limits(whole, tokenizer.max_prompt_length, tokenizer.max_answer_length)
    return SampleLimits(limits, _overflow(spec))


def _encoded(
    sources: Sequence[SplitSource],
    folder: Path,
    shared: SharedEncodings,
    heard: Callable[[float], None],
) -> dict[str, TokenSpool]:
    total = sum(len(one.rows) for one in sources) or 1
    spools, done = {}, 0

    def own(source: SplitSource, before: int) -> Iterator[TokenSpool]:
        for number, spool in spooled_samples(source, folder / source.split):
            heard((before + number) / total)
            yield spool

    for source in sources:
        spools[source.split] = shared.spool(source, folder / source.split, own(source, done))
        done += len(source.rows)
        heard(done / total)
    return spools


def _check_vocabulary(spools: dict[str, TokenSpool], vocabulary: int | None) -> None:
    largest = max(int(one.table()["largest"].max(initial=0)) for one in spools.values())
    if vocabulary is not None and largest >= vocabulary:
        raise ConfigurationError(
            f"spec.tokenizer: it yields id {largest}, but the model has {vocabulary} embeddings; "
            "use the model's own tokenizer, or repair the model folder",
            reason="UnsupportedModel",
        )


def _overflow(spec: ExperimentSpec) -> Overflow:
    if spec.tokenizer.overflow != Overflow.AUTO:
        return spec.tokenizer.overflow
    pretraining = spec.problem_type == ProblemType.PRETRAINING
    return Overflow.WINDOW if pretraining else Overflow.TRUNCATE


def _limit(spec: ExperimentSpec, lengths: list[int], facts: ModelFacts) -> int:
    given = spec.tokenizer.max_length
    if given is None:
        return automatic_limit(lengths, spec.tokenizer.max_length_quantile, facts.context)
    if facts.context is not None and given > facts.context:
        raise ConfigurationError(
            f"spec.tokenizer.maxLength: {given} exceeds the model's context of {facts.context} "
            "tokens; lower it",
            reason="LengthAboveContext",
        )
    return given


def _check(spec: ExperimentSpec, prepared: Prepared) -> None:
    main, most = main_split(spec), spec.tokenizer.max_truncated_share
    account = prepared.accounts[main]
    share = account.above / len(account.lengths) if len(account.lengths) else 0.0
    if share > most and _overflow(spec) != Overflow.WINDOW:
        raise DataError(
            f"spec.tokenizer.maxTruncatedShare: {share:.1%} of the {main} samples exceed "
            f"{prepared.max_length} tokens, allowed are {most:.1%}; raise tokenizer.maxLength, or "
            "allow it",
            reason="TruncationLimit",
        )
    if not len(prepared.samples[main]):
        raise DataError(
            f"NothingSupervised: no {main} sample has a supervised token left. Expected: at least "
            "one. Fix: raise tokenizer.maxLength, check prompt.trainOnRoles and the data's roles.",
            reason="NothingSupervised",
        )
