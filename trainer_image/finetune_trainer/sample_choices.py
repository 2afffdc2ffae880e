"""What preparation finds out about the training samples beside their tokens, and leaves behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from finetune_api.training_settings import Mode
from finetune_trainer.augmentation_choice import mask_token
from finetune_trainer.prepared_files import groups_of
from finetune_trainer.split import TRAIN
from finetune_trainer.store import FileEntry, Store, canonical_json
from finetune_trainer.token_cache import TokenCache

if TYPE_CHECKING:
    from finetune_api.finetune_experiment import ExperimentSpec
    from finetune_trainer.run_tokenizer import RunTokenizer
    from finetune_trainer.snapshot import Rows, Snapshot
    from finetune_trainer.token_spool import SpooledSamples


@dataclass(frozen=True, eq=False)
class SampleChoices:
    """The mask token, the weights of sources, and the cache where a plan depends on its turns."""

    mask_token: int | None = None
    sources: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    weights: tuple[float, ...] = ()
    cache: TokenCache | None = None

    def files(self, store: Store) -> list[FileEntry]:
        """Write what the trainer reads of it."""
        if not self.weights:
            return []
        weights = canonical_json({"version": 1, "weights": list(self.weights)})
        return [
            store.write(f"tokens/{TRAIN}/sources.bin", self.sources.tobytes()),
            store.write(f"tokens/{TRAIN}/sources.json", weights),
        ]


def sample_choices(
    spec: ExperimentSpec, snapshot: Snapshot, samples: SpooledSamples, tokenizer: RunTokenizer
) -> SampleChoices:
    """Return the choices for the training samples; raise ConfigurationError for impossible ones."""
    asked, rows = spec.augmentation, snapshot.splits.get(TRAIN)
    if rows is None or spec.mode is not Mode.TRAIN:
        return SampleChoices()
    masked = asked is not None and asked.token_mask_probability > 0
    weighted = bool(snapshot.weights) and bool(rows.sources)
    names = sorted(set(rows.sources)) if weighted else []
    numbers = {name: number for number, name in enumerate(names)}
    of_rows = np.array([numbers[name] for name in rows.sources if weighted], np.uint8)
    parents = asked is not None and (
        asked.skip_parent_probability + asked.random_parent_probability > 0
    )
    return SampleChoices(
        mask_token=mask_token(tokenizer, samples) if masked else None,
        sources=of_rows[samples.table["row"]] if weighted else of_rows,
        weights=tuple(snapshot.weights.get(name, 1.0) for name in names),
        # Only steps of tokens depend on what an epoch does to lengths.
        cache=_cache(samples, rows) if parents and spec.training.global_batch_tokens else None,
    )


def _cache(samples: SpooledSamples, rows: Rows) -> TokenCache:
    """Return the samples as far as their lengths and supervised rows are concerned."""
    turns = [np.zeros((0, 2), np.int64), *samples.turns()]
    return TokenCache(
        tokens=np.zeros(0, np.uint32),
        flags=np.concatenate([np.zeros(0, np.uint8), *samples.flags()]),
        offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(samples.lengths)]),
        rows=samples.table["row"],
        turns=np.concatenate(turns),
        groups=groups_of(rows, samples).astype(np.uint32),
    )
