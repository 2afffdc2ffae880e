"""A tokenizer folder as text to ids: its special tokens, its template, and how it grows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Encoding
from tokenizers import Tokenizer as Backend

from finetune_trainer.chat_template import SpecialTokens
from finetune_trainer.errors import ConfigurationError

BATCH = 1000


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer without the library around it: no model code and no torch are loaded."""

    backend: Backend
    special: SpecialTokens
    chat_template: str | None

    def encode(self, texts: Sequence[str]) -> Iterator[Encoding]:
        """Yield the encoding of every text, special tokens only where the text spells them."""
        for start in range(0, len(texts), BATCH):
            yield from self.backend.encode_batch(
                list(texts[start : start + BATCH]), add_special_tokens=False
            )

    def encode_ids(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """Yield the ids of every text; without offsets it takes half the time."""
        for start in range(0, len(texts), BATCH):
            batch = list(texts[start : start + BATCH])
            for found in self.backend.encode_batch_fast(batch, add_special_tokens=False):
                yield found.ids

    @cached_property
    def anchors(self) -> frozenset[str]:
        """Return special tokens at which a text can be cut without changing any id.

        A tokenizer splits a text at them before anything else; those that take spaces from beside
        them, need a border of words or are part of a longer one are left out.
        """
        added = self.backend.get_added_tokens_decoder().values()
        sure = {
            token.content
            for token in added
            if token.special
            and not (token.lstrip or token.rstrip or token.single_word or token.normalized)
        }
        others = [token.content for token in added]
        return frozenset(
            one for one in sure if not any(one in other and one != other for other in others)
        )

    def ids(self, text: str) -> list[int]:
        """Return the ids of one text."""
        ids: list[int] = self.backend.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens included."""
        text: str = self.backend.decode(list(ids), skip_special_tokens=False)
        return text


def text_tokenizer(folder: Path) -> TextTokenizer:
    """Return the tokenizer of a model folder; raise ConfigurationError when it cannot be used."""
    settings = _json(folder / "tokenizer_config.json")
    backend = _backend(folder)
    backend.no_padding()
    backend.no_truncation()
    begin, end = _token(settings.get("bos_token")), _token(settings.get("eos_token"))
    special = SpecialTokens(
        begin=begin,
        end=end or _end_of_model(folder, backend),
        begin_is_added=bool(begin) and _adds(backend, begin),
        all=frozenset(
            token.content for token in backend.get_added_tokens_decoder().values() if token.special
        ),
    )
    return TextTokenizer(backend, special, _template(folder, settings))


def _backend(folder: Path) -> Backend:
    path = folder / "tokenizer.json"
    if path.exists():
        try:
            return Backend.from_file(str(path))
        except Exception as error:  # the library raises nothing more precise
            raise ConfigurationError(
                f"spec.model: its tokenizer.json cannot be read ({type(error).__name__}); download "
                "the model again",
                reason="UnsupportedModel",
            ) from error
    # Older models have no tokenizer.json; the library converts them, which loads torch.
    from transformers import AutoTokenizer  # noqa: PLC0415

    try:
        converted = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        backend: Backend = converted.backend_tokenizer
    except (OSError, ValueError, AttributeError, ImportError) as error:
        raise ConfigurationError(
            f"spec.model: it has no tokenizer.json and its tokenizer cannot be converted "
            f"({type(error).__name__}); save it with a fast tokenizer",
            reason="UnsupportedModel",
        ) from error
    return backend


def _template(folder: Path, settings: dict[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.exists():
        return path.read_text("utf-8")
    template = settings.get("chat_template") or _json(folder / "chat_template.json").get(
        "chat_template"
    )
    if isinstance(template, list):
        named = {one.get("name"): one.get("template") for one in template}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _token(value: Any) -> str:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def _end_of_model(folder: Path, backend: Backend) -> str:
    """Return the end token that only the model's own configuration names."""
    number = _json(folder / "config.json").get("eos_token_id")
    number = number[0] if isinstance(number, list) and number else number
    return (backend.id_to_token(number) or "") if isinstance(number, int) else ""


def _adds(backend: Backend, begin: str) -> bool:
    ids = backend.encode("a", add_special_tokens=True).ids
    return bool(ids) and ids[0] == backend.token_to_id(begin)


def _json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise ConfigurationError(
            f"spec.model: {path.name} is not JSON; download the model again",
            reason="UnsupportedModel",
        ) from error
    return value if isinstance(value, dict) else {}
