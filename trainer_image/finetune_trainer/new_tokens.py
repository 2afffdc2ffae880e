"""Tokens that a run adds to its tokenizer, and the pieces from which their rows start."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Tokenizer

from finetune_api.text_settings import Markers
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.text_tokenizer import TextTokenizer

if TYPE_CHECKING:
    from finetune_api.finetune_experiment import ExperimentSpec


FILE = "new_tokens.json"


@dataclass(frozen=True)
class NewToken:
    """One new token: its id and the ids of the same text before the tokenizer grew.

    The mean of the pieces' embeddings is where its own row starts (Hewitt 2021, "Initializing New
    Word Embeddings for Pretrained Language Models", argues for a mean of known rows).
    """

    token: str
    id: int
    pieces: tuple[int, ...]


def grown(tokenizer: TextTokenizer, spec: ExperimentSpec) -> tuple[TextTokenizer, list[NewToken]]:
    """Return the tokenizer with the tokens of the spec, and those that are new to it.

    Listed tokens are plain text for decoding; markers are special: generation stops at them and
    nothing masks them. Raises ConfigurationError (DeadSetting) for tokens that exist already.
    """
    listed, markers = list(spec.tokenizer.additional_tokens or ()), _markers(spec)
    vocabulary = tokenizer.backend.get_vocab(with_added_tokens=True)
    known = sorted({token for token in listed if token in vocabulary})
    if known or len(set(listed)) < len(listed):
        raise _dead("additionalTokens", f"{', '.join(known) or 'a token'} exists already or twice")
    if markers and not any(marker not in vocabulary for marker in markers):
        raise _dead("addMarkerTokens", "all markers are tokens of this tokenizer already")
    fresh = [token for token in (*markers, *listed) if token not in vocabulary]
    if not fresh:
        return tokenizer, []
    backend = Tokenizer.from_str(tokenizer.backend.to_str())
    backend.add_special_tokens([_added(token, special=True) for token in markers])
    backend.add_tokens([_added(token, special=False) for token in listed])
    special = replace(tokenizer.special, all=tokenizer.special.all | set(markers))
    ids = backend.get_vocab(with_added_tokens=True)
    lost = [token for token in listed if backend.decode([ids[token]]).strip() != token.strip()]
    if lost:
        # A byte-level decoder takes Latin letters inside an added token for bytes.
        raise ConfigurationError(
            f"spec.tokenizer.additionalTokens: this tokenizer cannot write {', '.join(lost)} back "
            "as text; use ASCII characters",
            reason="InvalidSpec",
        )
    new = [NewToken(token, ids[token], tuple(tokenizer.ids(token))) for token in fresh]
    return replace(tokenizer, backend=backend, special=special), new


def read_new_tokens(folder: Path) -> list[NewToken]:
    """Return the new tokens of a prepared folder; none where it has no new_tokens.json."""
    path = folder / FILE
    if not path.exists():
        return []
    return [
        NewToken(one["token"], int(one["id"]), tuple(map(int, one["pieces"])))
        for one in json.loads(path.read_bytes())["tokens"]
    ]


def new_tokens_file(new: Sequence[NewToken], vocabulary: int | None) -> dict[str, Any]:
    """Return the content of new_tokens.json; `vocabulary` rows of the model never become fewer."""
    return {
        "version": 1,
        "vocabulary": rows_needed(new, vocabulary),
        "tokens": [{"id": one.id, "token": one.token, "pieces": list(one.pieces)} for one in new],
    }


def rows_needed(new: Sequence[NewToken], vocabulary: int | None) -> int | None:
    """Return the rows of the grown model; a padded vocabulary keeps its size."""
    return max([vocabulary, *(one.id + 1 for one in new)]) if vocabulary is not None else None


def _markers(spec: ExperimentSpec) -> list[str]:
    if not spec.tokenizer.add_marker_tokens:
        return []
    markers = spec.prompt.markers or Markers()
    texts: Iterable[str] = (markers.system, markers.prompt, markers.answer)
    return [text for text in dict.fromkeys(texts) if text.strip()]


def _added(token: str, *, special: bool) -> AddedToken:
    return AddedToken(token, special=special, normalized=False)


def _dead(field: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"spec.tokenizer.{field}: {why}; remove what is not new", reason="DeadSetting"
    )
