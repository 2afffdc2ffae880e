"""Both splits of a snapshot as samples that fit one length limit, or the reason why they cannot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from finetune_api.finetune_experiment import ExperimentSpec
from finetune_trainer.encode import Encoder, Sample
from finetune_trainer.errors import ConfigurationError, DataError
from finetune_trainer.model_facts import ModelFacts
from finetune_trainer.prepared_samples import (
    Account,
    automatic_limit,
    encoded_records,
    fitting_samples,
)
from finetune_trainer.snapshot import Rows, Snapshot
from finetune_trainer.split import TRAIN, VALIDATION

SPLITS = (TRAIN, VALIDATION)


@dataclass(frozen=True)
class Prepared:
    """Samples of every split and the account of what was cut."""

    samples: dict[str, list[tuple[int, Sample]]]
    accounts: dict[str, Account]
    max_length: int


def prepared_splits(
    spec: ExperimentSpec,
    snapshot: Snapshot,
    encoder: Encoder,
    facts: ModelFacts,
    heard: Callable[[float], None],
) -> Prepared:
    """Encode both splits, resolve the length limit and make every sample fit it."""
    empty = Rows([], [], [], [])
    rows = {split: snapshot.splits.get(split, empty) for split in SPLITS}
    total = sum(map(len, rows.values())) or 1
    found, done = {}, 0
    for split in SPLITS:
        found[split] = encoded_records(rows[split], encoder, spec.prompt.system)
        done += len(rows[split])
        heard(done / total)
    limit = _limit(spec, sorted(len(one.sample.ids) for one in found[TRAIN]), facts)
    samples, accounts = {}, {}
    for split in SPLITS:
        samples[split], accounts[split] = fitting_samples(
            split, found[split], encoder, limit, spec.tokenizer.overflow
        )
    prepared = Prepared(samples, accounts, limit)
    _check(spec, prepared, facts)
    return prepared


def _limit(spec: ExperimentSpec, lengths: Sequence[int], facts: ModelFacts) -> int:
    given = spec.tokenizer.max_length
    if given is None:
        return automatic_limit(lengths, spec.tokenizer.max_length_quantile, facts.context)
    if facts.context is not None and given > facts.context:
        raise ConfigurationError(
            f"tokenizer.maxLength: {given} exceeds the model's context of {facts.context} tokens; "
            "lower it",
            reason="LengthAboveContext",
        )
    return given


def _check(spec: ExperimentSpec, prepared: Prepared, facts: ModelFacts) -> None:
    account, most = prepared.accounts[TRAIN], spec.tokenizer.max_truncated_share
    share = account.above / len(account.lengths) if account.lengths else 0.0
    if share > most:
        raise DataError(
            f"tokenizer.maxTruncatedShare: {share:.1%} of the training samples exceed "
            f"{prepared.max_length} tokens, allowed are {most:.1%}; raise tokenizer.maxLength, or "
            "allow it",
            reason="TruncationLimit",
        )
    if not prepared.samples[TRAIN]:
        raise DataError(
            "NothingSupervised: no training sample has a supervised token left. Expected: at least "
            "one. Fix: raise tokenizer.maxLength, check the roles of the data.",
            reason="NothingSupervised",
        )
    largest = max((max(sample.ids) for _, sample in prepared.samples[TRAIN]), default=0)
    if facts.vocabulary is not None and largest >= facts.vocabulary:
        raise ConfigurationError(
            f"spec.model: its tokenizer yields id {largest}, but the model has {facts.vocabulary} "
            "embeddings; repair the model folder",
            reason="UnsupportedModel",
        )
