"""Tokens that a run adds to its tokenizer, and the pieces from which their rows start."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
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
    special: bool = False


def grown(tokenizer: TextTokenizer, spec: ExperimentSpec) -> tuple[TextTokenizer, list[NewToken]]:
    """Return the tokenizer with the tokens of the spec, and those that are new to it.

    Listed tokens are plain text for decoding; markers are special: generation stops at them and
    nothing masks them. Raises ConfigurationError: DeadSetting for tokens that exist already,
    InvalidSpec for those that cannot be decoded again.
    """
    listed, markers = list(spec.tokenizer.additional_tokens or ()), _markers(spec)
    vocabulary = tokenizer.backend.get_vocab(with_added_tokens=True)
    known = sorted({token for token in listed if token in vocabulary})
    if known or len(set(listed)) < len(listed):
        raise _dead("additionalTokens", f"{', '.join(known) or 'a token'} exists already or twice")
    if markers and not any(marker not in vocabulary for marker in markers):
        raise _dead("addMarkerTokens", "all markers are tokens of this tokenizer already")
    wanted = [(token, token in markers) for token in (*markers, *listed)]
    added = with_tokens(tokenizer, wanted)
    ids = added.backend.get_vocab(with_added_tokens=True)
    lost = [one for one in listed if added.backend.decode([ids[one]]).strip() != one.strip()]
    if lost:
        # A byte-level decoder takes Latin letters inside an added token for bytes.
        raise ConfigurationError(
            f"spec.tokenizer.additionalTokens: this tokenizer cannot write {', '.join(lost)} back "
            "as text; use ASCII characters",
            reason="InvalidSpec",
        )
    return added, [
        NewToken(token, ids[token], tuple(tokenizer.ids(token)), special)
        for token, special in wanted
        if token not in vocabulary
    ]


def with_tokens(tokenizer: TextTokenizer, tokens: Sequence[tuple[str, bool]]) -> TextTokenizer:
    """Return a tokenizer that also knows these tokens, each with whether it is special."""
    if not tokens:
        return tokenizer
    backend = Tokenizer.from_str(tokenizer.backend.to_str())
    for token, special in tokens:
        backend.add_tokens([AddedToken(token, special=special, normalized=False)])
    special_ones = {token for token, special in tokens if special}
    special_tokens = replace(tokenizer.special, all=tokenizer.special.all | special_ones)
    return replace(tokenizer, backend=backend, special=special_tokens)


def parsed_tokens(content: Mapping[str, Any], part: str = "tokens") -> list[NewToken]:
    """Return the tokens that a part of a new_tokens.json lists."""
    return [
        NewToken(one["token"], int(one["id"]), tuple(map(int, one["pieces"])), bool(one["special"]))
        for one in content.get(part, ())
    ]


def read_new_tokens(folder: Path) -> list[NewToken]:
    """Return the new tokens of a prepared folder; none where it has no new_tokens.json."""
    path = folder / FILE
    return parsed_tokens(json.loads(path.read_bytes())) if path.exists() else []


def new_tokens_file(
    new: Sequence[NewToken], vocabulary: int | None, inherited: Sequence[NewToken] = ()
) -> dict[str, Any]:
    """Return the content of new_tokens.json; `vocabulary` rows of the model never become fewer.

    `inherited` tokens have their rows in the start weights. A run that trains the whole model is
    all that its children know of the runs before it, so its checkpoint has to list them.
    """
    return {
        "version": 1,
        "vocabulary": rows_needed(new, vocabulary),
        "tokens": _listed(new),
        "inherited": _listed(inherited),
    }


def rows_needed(tokens: Iterable[NewToken], vocabulary: int | None) -> int | None:
    """Return the rows of the grown model; a padded vocabulary keeps its size."""
    if vocabulary is None:
        return None
    return max([vocabulary, *(one.id + 1 for one in tokens)])


def _listed(tokens: Iterable[NewToken]) -> list[dict[str, Any]]:
    return [{**vars(one), "pieces": list(one.pieces)} for one in tokens]


def _markers(spec: ExperimentSpec) -> list[str]:
    if not spec.tokenizer.add_marker_tokens:
        return []
    markers = spec.prompt.markers or Markers()
    texts: Iterable[str] = (markers.system, markers.prompt, markers.answer)
    return [text for text in dict.fromkeys(texts) if text.strip()]


def _dead(field: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"spec.tokenizer.{field}: {why}; remove what is not new", reason="DeadSetting"
    )
