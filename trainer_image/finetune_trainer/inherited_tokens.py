"""The tokens that the starting weights already know: earlier experiments added them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune_trainer.new_tokens import FILE, NewToken, parsed_tokens
from finetune_trainer.start_weights import continues
from finetune_trainer.store import store_at
from finetune_trainer.stored import pinned

if TYPE_CHECKING:
    from finetune_api.experiment_start import Ancestor, Start


@dataclass(frozen=True)
class InheritedTokens:
    """Tokens of ancestors, eldest first."""

    merged: tuple[NewToken, ...] = ()
    """merged tokens have their rows in the model already."""
    continued: tuple[NewToken, ...] = ()
    """continued tokens have them in an adapter that is trained further: rows are made again."""

    def __iter__(self) -> Iterator[NewToken]:
        yield from (*self.merged, *self.continued)


def inherited_tokens(start: Start | None) -> InheritedTokens:
    """Return the tokens that the checkpoints of a start brought along."""
    merged: dict[int, NewToken] = {}
    continued: dict[int, NewToken] = {}
    for ancestor in start.ancestors if start is not None else ():
        told = _told(ancestor)
        # Those before it may stand in the start themselves, or be part of its whole weights.
        merged |= {one.id: one for one in parsed_tokens(told, "inherited")}
        own = {one.id: one for one in parsed_tokens(told)}
        if continues(ancestor):
            continued |= own
        else:
            merged |= own
    return InheritedTokens(tuple(merged.values()), tuple(continued.values()))


def _told(ancestor: Ancestor) -> dict[str, Any]:
    store = store_at(ancestor.location, ancestor.uri)
    if not any(file.name == FILE for file in pinned(store, ancestor.digest).files):
        return {}
    told: dict[str, Any] = json.loads(store.read(FILE))
    return told
