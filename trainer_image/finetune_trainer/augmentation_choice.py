"""What preparation decides about augmentations: whether they can act, and what masks a token."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.encode import Encoder, Sample
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.exchanges import USER
from finetune_trainer.prepared_samples import CHUNK, batch_of, messages_of
from finetune_trainer.rendering import Rendering
from finetune_trainer.split import TRAIN

if TYPE_CHECKING:
    from finetune_api.finetune_experiment import ExperimentSpec
    from finetune_api.text_settings import Augmentation
    from finetune_trainer.run_tokenizer import RunTokenizer
    from finetune_trainer.snapshot import Rows, Snapshot
    from finetune_trainer.token_spool import SpooledSamples

RANDOM = "randomParentProbability"
RESERVED = re.compile("reserved|unused", re.IGNORECASE)
"""Names of ids that a vocabulary keeps free."""


def check_exchanges(spec: ExperimentSpec, snapshot: Snapshot, encoder: Encoder) -> None:
    """Refuse to leave exchanges out where that is not what the template makes of fewer turns.

    A template that folds the system text into the first turn, for instance, would lose it. Every
    conversation is rendered without its first exchange and compared id by id.
    """
    name, rows = _asked(spec.augmentation), snapshot.splits.get(TRAIN)
    if not name or rows is None:
        return
    found = 0
    for whole, shorter in _pairs(rows, encoder, spec.prompt.system):
        found += 1
        starts = [at for at, role in whole.turns if role == USER]
        if len(starts) < 2 or not np.array_equal(_without_first(whole, starts), shorter.ids):
            raise ConfigurationError(
                f"spec.augmentation.{name}: template {encoder.template.name} renders conversations "
                "differently when its first exchange is left out, perhaps because it folds the "
                "system text into it; set prompt.system, prompt.template ChatML, or remove it",
                reason="TemplateUnsuitable",
            )
    if not found or (name == RANDOM and len(set(rows.groups)) < 2):
        raise ConfigurationError(
            f"spec.augmentation.{name}: the training records are "
            f"{'single turns' if not found else 'one conversation tree'}, so it cannot act; "
            "remove it",
            reason="DeadSetting",
        )


def _asked(settings: Augmentation | None) -> str:
    """Return the field that moves exchanges, or nothing; the one that needs several trees first."""
    if settings is None:
        return ""
    if settings.random_parent_probability:
        return RANDOM
    return "skipParentProbability" if settings.skip_parent_probability else ""


def mask_token(tokenizer: RunTokenizer, samples: SpooledSamples) -> int:
    """Return the id that stands for a masked token.

    The tokenizer's mask token, else its unknown one, else a reserved id that no sample uses; never
    the token that begins or ends a text. Raises ConfigurationError where there is none.
    """
    path = tokenizer.folder / "tokenizer_config.json"
    settings = json.loads(path.read_bytes()) if path.exists() else {}
    backend, special = tokenizer.tokenizer.backend, tokenizer.tokenizer.special
    unknown = getattr(backend.model, "unk_token", None)
    for value in (settings.get("mask_token"), settings.get("unk_token"), unknown):
        text = value.get("content") if isinstance(value, dict) else value
        number = backend.token_to_id(text) if text else None
        if number is not None and text not in (special.begin, special.end):
            return int(number)
    names = backend.get_vocab(with_added_tokens=True)
    free = {number for text, number in names.items() if RESERVED.search(text)}
    free -= _used(samples, sorted(free))
    if not free:
        raise ConfigurationError(
            "spec.augmentation.tokenMaskProbability: the tokenizer has neither a mask nor an "
            "unknown token nor a reserved one that the data leaves unused; remove it, or use "
            "another tokenizer",
            reason="DeadSetting",
        )
    return min(free)


def _used(samples: SpooledSamples, ids: Sequence[int]) -> set[int]:
    found: set[int] = set()
    for tokens in samples.tokens():
        found |= set(np.intersect1d(tokens, np.array(ids, np.uint32)).tolist())
    return found


def _without_first(sample: Sample, starts: Sequence[int]) -> NDArray[np.uint32]:
    return np.concatenate([sample.ids[: starts[0]], sample.ids[starts[1] :]])


def _pairs(rows: Rows, encoder: Encoder, system: str | None) -> Iterator[tuple[Sample, Sample]]:
    """Yield every conversation of several exchanges as a sample, and without its first one."""
    for start in range(0, len(rows), CHUNK):
        batch = batch_of(rows, start, start + CHUNK)
        wholes: list[Rendering] = []
        shorter: list[Rendering] = []
        for row in range(len(batch)):
            messages = messages_of(batch, row, system)
            users = [at for at, one in enumerate(messages) if one["role"] == "user"]
            if len(users) < 2:
                continue
            wholes.append(encoder.renderings(messages)[-1])
            shorter.append(encoder.renderings([*messages[: users[0]], *messages[users[1] :]])[-1])
        yield from zip(encoder.encoded(wholes), encoder.encoded(shorter), strict=True)
