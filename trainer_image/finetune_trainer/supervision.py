"""Decides which turns of a conversation are supervised: by role, by place, by the data's flags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_api.text_settings import Prompt, TrainOnTurns
from finetune_trainer.chat_template import MARKS, Message

ROLES = tuple(MARKS)
"""Roles by their code: system 0, user 1, assistant 2, tool 3."""


@dataclass(frozen=True)
class Supervision:
    """The choice of a run; what the data marks as untrained stays out whatever is chosen."""

    roles: frozenset[str] = frozenset({"assistant"})
    only_last: bool = False

    @classmethod
    def of(cls, prompt: Prompt) -> Supervision:
        """Return what `prompt` asks for."""
        roles = frozenset(role.value.lower() for role in prompt.train_on_roles)
        return cls(roles, prompt.train_on_turns == TrainOnTurns.LAST)

    @property
    def everything(self) -> bool:
        """Tell whether every token but the begin token is supervised, headers included."""
        return self.roles == set(ROLES) and not self.only_last

    def places(self, messages: Sequence[Message]) -> list[int]:
        """Return the numbers of the supervised messages."""
        chosen = [at for at, one in enumerate(messages) if one["role"] in self.roles]
        if self.only_last:
            chosen = chosen[-1:]
        return [at for at in chosen if messages[at].get("train", True)]
